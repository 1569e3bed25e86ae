"""The vocabulary: names, frozen values and ports. Pure: no input, no output, no clock."""
