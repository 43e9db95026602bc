"""The keys that let programs find and admit each other: an authority, a server's certificate, node keys.

None of them makes a sum secret; see docs/deployment.md, "What each program may be trusted with".
"""

import datetime
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secure_afl.protocol.session.errors import FileError

_OTHER_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Authority:
    """Who vouches for a server's certificate: a key, and a certificate of its own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str, days: int) -> "Authority":
        """A new one. name: of at most 64 letters; days: how long its certificate is valid."""
        key = ec.generate_private_key(ec.SECP256R1())
        uses = x509.KeyUsage(**dict.fromkeys(_OTHER_USES, False), key_cert_sign=True, crl_sign=True)
        certificate = (
            _builder(_name(name), _name(name), key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(uses, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @classmethod
    def of_pem(cls, key: bytes, certificate: bytes) -> "Authority":
        """One that was made before. Raises `FileError` unless both are PEM and belong together."""
        try:
            read, shown = load_pem_private_key(key, None), x509.load_pem_x509_certificate(certificate)
        except (ValueError, TypeError):
            raise FileError(
                "expected an authority's key and certificate in PEM, got bytes that are neither: bring back the files "
                "that were made together"
            ) from None
        if not isinstance(read, ec.EllipticCurvePrivateKey) or read.public_key() != shown.public_key():
            raise FileError(
                "expected the key that the authority's certificate names, got a different one: bring back the files that "
                "were made together"
            )
        return cls(read, shown)

    @property
    def pem(self) -> bytes:
        """The certificate, for whoever shall trust it."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _secret(self.key, PrivateFormat.PKCS8)

    def server(self, host: str, days: int) -> tuple[bytes, bytes]:
        """A certificate, and its key, of a server that is reached by a name or an IP address; also by this machine's own."""
        key = ec.generate_private_key(ec.SECP256R1())
        local: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        reached = _general(host)
        issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            _builder(_name(host[:64]), self.certificate.subject, key.public_key(), days)
            .add_extension(
                x509.SubjectAlternativeName([*([reached] if reached not in local else []), *local]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issued_by, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM), _secret(key, PrivateFormat.PKCS8)


def node_key() -> tuple[bytes, bytes]:
    """A node's new key, as `ssh-keygen -t ecdsa -b 256` writes it: the secret half, and the public one."""
    # Of the curves that Flower takes, the one whose signatures cost least.
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return _secret(key, PrivateFormat.OpenSSH), public


def _secret(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of parties differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )
