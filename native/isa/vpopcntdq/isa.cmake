set(flags -mavx512vpopcntdq)
