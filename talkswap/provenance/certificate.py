"""Who signs: the user's certificate, or a local one.

A local certificate makes a manifest well-formed and any later change visible, but no authority vouches for it:
validators call it untrusted, and so does talkswap.  Each user has one, key included, in one file that only they can
read, and renders that start at once end up with the same.
"""

import datetime
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from talkswap.errors import InputMissingError, OutputUnwritableError, UsageError

CERT_VARIABLE, KEY_VARIABLE = "TALKSWAP_SIGN_CERT", "TALKSWAP_SIGN_KEY"
LOCAL_NAME = "talkswap, local and unverified"
_YEARS = 5
_MOST_BYTES = 2**20  # of a chain or a key
_FRESH_DAYS = 30  # a local certificate that ends sooner is replaced
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Signer:
    """A certificate chain and its key."""

    chain: str  # PEM, the signer's own certificate first
    key: str = field(repr=False)  # PEM
    algorithm: str  # es256 | es384 | es512 | ps256 | ed25519
    name: str  # of the certificate's subject
    local: bool  # talkswap's own, of this machine


def config_folder() -> Path:
    """The user's own settings: ``$XDG_CONFIG_HOME/talkswap``, or below ``~/.config``."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "talkswap"


def choose_signer(cert: Path | None, key: Path | None) -> Signer:
    """The signer of these files, else of the two environment variables, else the local one.

    Raises:
        UsageError: only one of the two is there, or they don't fit each other.
        InputMissingError: a file is not there.
        OutputUnwritableError: a local certificate cannot be kept.
    """
    paths = [cert, key]
    # Options go before the environment, and both halves come from one of them.
    if cert is None and key is None:
        paths = [Path(v) if (v := os.environ.get(name)) else None for name in (CERT_VARIABLE, KEY_VARIABLE)]
    if paths[0] is not None and paths[1] is not None:
        return load_signer(paths[0], paths[1])
    if paths[0] is not None or paths[1] is not None:
        raise UsageError(
            "a certificate signs only together with its key",
            f"give both --sign-cert and --sign-key, or set {CERT_VARIABLE} and {KEY_VARIABLE}",
        )
    return local_signer()


def load_signer(cert: Path, key: Path) -> Signer:
    """The signer of a PEM chain and a PEM key.

    Raises:
        InputMissingError: a file is not there or cannot be read.
        UsageError: one is not PEM, the key is locked, of a kind that C2PA does not know, or of another certificate.
    """
    return _signer(_read(cert), _read(key), str(cert), str(key), local=False)


def local_signer() -> Signer:
    """The certificate of this user on this machine: a new one where there is none, or where it is about to end.

    Raises:
        UsageError: the file is damaged.
        OutputUnwritableError: the user's settings cannot be written.
    """
    place = config_folder() / "signing" / "local.pem"
    if not place.exists():
        _keep(place, _create(), replace=False)
    signer = _read_local(place)
    # A render may take days; the certificate has to be valid at its end too.
    ends = x509.load_pem_x509_certificate(signer.chain.encode()).not_valid_after_utc
    if ends < _now() + datetime.timedelta(days=_FRESH_DAYS):
        _keep(place, _create(), replace=True)
        signer = _read_local(place)
    return signer


def _read_local(place: Path) -> Signer:
    text = _read(place)
    return _signer(text, text, str(place), str(place), local=True)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:  # a key store may hand out a pipe; a device without end must not fill memory
            return file.read(_MOST_BYTES)
    except FileNotFoundError as error:
        raise InputMissingError(f"{path} does not exist", "check the path") from error
    except OSError as error:
        raise InputMissingError(f"{path} cannot be read ({error.strerror})", "check the path and its rights") from error


def _signer(chain: bytes, key: bytes, chain_name: str, key_name: str, local: bool) -> Signer:
    repair = "remove it, and the next render makes a new one" if local else "give the authority's PEM file"
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise UsageError(f"{chain_name} holds no PEM certificate", repair) from error
    try:
        private = serialization.load_pem_private_key(_key_part(key), None)
    except TypeError as error:
        raise UsageError(f"{key_name} is locked with a password", "give the key without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{key_name} holds no PEM key", repair if local else "give the certificate's key") from error
    if private.public_key() != certificates[0].public_key():
        raise UsageError(f"{key_name} is not the key of the first certificate in {chain_name}", repair)
    common = certificates[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Signer(
        "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates),
        _pem(private).decode(),
        algorithm_of(private, key_name),
        str(common[0].value) if common else certificates[0].subject.rfc4514_string(),
        local,
    )


def algorithm_of(key: PrivateKeyTypes, name: str) -> str:
    """C2PA's name for the signature of a key.

    Raises:
        UsageError: C2PA has none.
    """
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise UsageError(f"{name} holds a key that C2PA cannot use", "give an ES256, PS256 or Ed25519 key")


def _key_part(data: bytes) -> bytes:
    """The part of a file of certificates and a key that begins with the key."""
    start = data.find(b"-----BEGIN ")
    while start >= 0 and b"PRIVATE KEY" not in data[start : data.find(b"\n", start) % (len(data) + 1)]:
        start = data.find(b"-----BEGIN ", start + 1)
    return data[max(start, 0) :]


def _pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _usage(**purposes: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: purposes.get(name, False) for name in names})


def _create() -> bytes:
    """A new chain and its key, after C2PA's certificate profile.

    The authority's key is forgotten at once.  The signer below it has the purpose that every validator accepts.
    """
    # C2PA refuses a certificate that signs itself, so a local authority signs it.
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = _name(f"{LOCAL_NAME}: authority"), _name(LOCAL_NAME)
    begin, end = _now() - datetime.timedelta(days=1), _now() + datetime.timedelta(days=365 * _YEARS)

    def builder(name: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        plain = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public)
        dated = plain.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
        return dated.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)

    authority = (
        builder(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(True, 0), True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), True)
        .sign(authority_key, hashes.SHA256())
    )
    signer = (
        builder(subject, key.public_key())
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(_usage(digital_signature=True), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False)
        .sign(authority_key, hashes.SHA256())
    )
    return b"".join([*(c.public_bytes(serialization.Encoding.PEM) for c in (signer, authority)), _pem(key)])


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "talkswap"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _keep(place: Path, content: bytes, replace: bool) -> None:
    """Write a file that only the user can read, in one move; without ``replace`` an existing file stays."""
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Several renders may start at once and each make a certificate; one of them stays.
        handle, name = tempfile.mkstemp(prefix=".local-", dir=place.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            if replace:
                os.replace(name, place)
            else:
                try:
                    os.link(name, place)  # unlike a move, a link never replaces what another render has written
                except FileExistsError:
                    pass
                except OSError:  # a disk without links: the last of several writers wins, and each file is whole
                    os.replace(name, place)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputUnwritableError(
            f"the local certificate cannot be written to {place.parent} ({error.strerror})",
            "set XDG_CONFIG_HOME to a writable folder, or give --sign-cert and --sign-key",
        ) from error
