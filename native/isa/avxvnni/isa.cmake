set(flags -mavxvnni)
