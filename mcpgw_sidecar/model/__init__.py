"""The vocabulary: names, frozen values and ports. Pure: no input, output or clock anywhere below."""
