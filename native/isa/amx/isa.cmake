set(flags -mamx-tile -mamx-int8)
