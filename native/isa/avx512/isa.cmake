set(flags -mavx512f -mavx512bw -mavx512vl -mavx512dq)
