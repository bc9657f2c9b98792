"""Running a Program: the numpy reference (the contract) and the native runtime."""
