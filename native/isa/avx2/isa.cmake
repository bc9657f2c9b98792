set(flags -mavx2 -mfma -mpopcnt)
