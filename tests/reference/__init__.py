"""The protocol once more: short, slow, on Python's integers and bytes, from docs/ alone.

It shares no code with `secure_afl` (a test checks the imports). AES, Ed25519, X25519 and ML-KEM keys are those
of `cryptography`. Whatever the documents refuse raises `Refused`.
"""
