// A library of which only the name is wanted.
