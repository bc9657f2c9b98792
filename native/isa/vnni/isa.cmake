set(flags -mavx512vnni)
