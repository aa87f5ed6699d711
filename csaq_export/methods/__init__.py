"""Published methods as recipes over the stages of the converter, one file or folder each."""
