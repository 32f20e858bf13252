"""The NBD host: any program that speaks NBD uses a disk, several at once."""
