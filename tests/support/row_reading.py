"""Lines read the careful way and the fast way: the rows, or the message of the fault."""

from featurize.data.records import CheckedRow, RowReader, check_row, parse_line
from featurize.errors import RowFault


def carefully(line: bytes) -> list[CheckedRow] | str:
    """Read a line as the careful way does."""
    try:
        return check_row(parse_line(line))
    except RowFault as fault:
        return str(fault)


def read(line: bytes, reader: RowReader) -> list[CheckedRow] | str:
    """Read a line as the reader does."""
    try:
        return reader.read(line)
    except RowFault as fault:
        return str(fault)
