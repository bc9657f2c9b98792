set(flags -march=armv8.2-a+i8mm)
