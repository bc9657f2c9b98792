"""One module a command of `bitskip shortcuts`."""
