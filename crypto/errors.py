"""The root of every exception that this framework raises on purpose."""


class SecureAflError(Exception):
    """Something was refused; the text says what was expected and what came, and never quotes a secret."""


class CryptoError(SecureAflError, ValueError):
    """A value, key, share or ciphertext does not fit its scheme."""
