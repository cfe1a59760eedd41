"""Isolates programs by the kernel: namespaces, Landlock and seccomp, or bubblewrap."""
