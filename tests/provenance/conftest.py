"""Short clips of the example face in every container, and signers of the tests' own."""

from __future__ import annotations

import datetime
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from talkswap.faces.analyse import CompactAnalyser
from talkswap.media.index import index_frames
from talkswap.media.mux import mux
from talkswap.media.probe import probe
from talkswap.provenance.tags import container_tags
from talkswap.types import Voice

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "examples" / "target.mp4"


def encode(pictures: list[np.ndarray], path: Path, codec: str = "libx264", **options: str) -> Path:
    """Pictures as a clip of 25 frames a second, without sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def face_pictures() -> list[np.ndarray]:
    """Twenty pictures of the example clip."""
    with av.open(str(TARGET)) as container:
        return [
            frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(20), strict=False)
        ]


@pytest.fixture(scope="session")
def plain_clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip without a face in each container, as the final pass writes it with talkswap's tags."""
    folder = tmp_path_factory.mktemp("plain")
    y, x = np.mgrid[0:96, 0:128]
    pictures = [np.stack([x + 8 * k, y + 60, 200 - x], 2).astype(np.uint8) for k in range(6)]
    clips = {}
    for ending in (".mp4", ".mov", ".mkv", ".webm"):
        video = encode(pictures, folder / "v.mp4", "libvpx-vp9" if ending == ".webm" else "libx264")
        index = index_frames(probe(video))
        clips[ending] = folder / f"plain{ending}"
        voice = Voice(np.zeros(16000, np.float32), 16000)
        tags = container_tags(ending)
        mux(video, voice, video, clips[ending], index.times, index.duration, metadata=tags, overwrite=True)
    return clips


@pytest.fixture(scope="session")
def analyser() -> CompactAnalyser:
    return CompactAnalyser(ROOT / "weights" / "compact")


class Authority:
    """A certificate authority that signs for a name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._certificate("an authority", self.key.public_key(), True, True)

    def _certificate(
        self, name: str, public: ec.EllipticCurvePublicKey, authority: bool, fit: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        named = [x509.NameAttribute(NameOID.COMMON_NAME, one) for one in (name, "an authority")]
        organised = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests")
        builder = x509.CertificateBuilder().public_key(public).serial_number(x509.random_serial_number())
        builder = builder.subject_name(x509.Name([organised, named[0]])).issuer_name(x509.Name([organised, named[1]]))
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=90))
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        usage |= {"digital_signature": not authority, "key_cert_sign": authority, "crl_sign": authority}
        builder = builder.add_extension(x509.BasicConstraints(authority, None), True)
        builder = builder.add_extension(x509.KeyUsage(**usage), True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
        )
        if not authority:
            purpose = ExtendedKeyUsageOID.EMAIL_PROTECTION if fit else ExtendedKeyUsageOID.SERVER_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), True)
        return builder.sign(self.key, hashes.SHA256())

    def sign_for(self, name: str, fit: bool = True) -> tuple[Path, Path]:
        """PEM chain and key of a signer below the authority; without ``fit`` for another purpose."""
        key = ec.generate_private_key(ec.SECP256R1())
        own = self._certificate(name, key.public_key(), False, fit)
        cert, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (own, self.certificate)))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        return cert, secret

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)
