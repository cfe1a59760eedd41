"""Bytes on disks and behind URIs: atomic files, transfers, downloads and locks."""
