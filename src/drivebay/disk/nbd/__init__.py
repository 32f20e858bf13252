"""The NBD protocol, as both of its sides speak it: messages, haggling, TLS. Bytes in, bytes out."""
