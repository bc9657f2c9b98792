set(flags) # part of the architecture
