"""Who signs: the local certificate is made once, also by several at once, and what cannot sign is named."""

from __future__ import annotations

import datetime
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from talkswap.errors import InputMissingError, OutputUnwritableError, UsageError
from talkswap.provenance import certificate
from talkswap.provenance.certificate import (
    CERT_VARIABLE,
    KEY_VARIABLE,
    algorithm_of,
    choose_signer,
    load_signer,
    local_signer,
)

PLACE = Path("talkswap") / "signing" / "local.pem"


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "settings"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.delenv(CERT_VARIABLE, raising=False)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    return folder


def pem(key: object, password: bytes | None = None) -> bytes:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)  # type: ignore


def test_the_local_certificate_is_made_once_for_its_user_alone(settings: Path) -> None:
    first = choose_signer(None, None)
    assert first.local and first.algorithm == "es256" and "unverified" in first.name
    assert stat.S_IMODE((settings / PLACE).stat().st_mode) == 0o600
    assert choose_signer(None, None) == first
    assert first.chain.count("BEGIN CERTIFICATE") == 2
    assert "PRIVATE" not in repr(first)


def test_processes_at_once_end_up_with_the_same(settings: Path) -> None:
    code = (
        "from talkswap.provenance.certificate import local_signer as s; print(hash(s().key + s().chain) and s().chain)"
    )
    several = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate(timeout=60)[0] for process in several}
    assert len(said) == 1
    assert said.pop().strip() == local_signer().chain.strip()
    assert [path.name for path in (settings / PLACE).parent.iterdir()] == ["local.pem"]


def test_one_about_to_end_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first = local_signer()
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365 * 5 - 10)
    monkeypatch.setattr(certificate, "_now", lambda: later)
    assert local_signer().chain != first.chain


def test_a_damaged_one_is_named(settings: Path) -> None:
    local_signer()
    (settings / PLACE).write_text("nothing")
    with pytest.raises(UsageError, match="local.pem holds no PEM certificate"):
        local_signer()


def test_settings_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputUnwritableError, match="local certificate"):
        local_signer()


def files_of(folder: Path) -> tuple[Path, Path]:
    made = local_signer()
    cert, key = folder / "chain.pem", folder / "key.pem"
    cert.write_text(made.chain)
    key.write_text(made.key)
    return cert, key


def test_files_and_variables_name_a_signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = files_of(tmp_path)
    assert not choose_signer(cert, key).local
    monkeypatch.setenv(CERT_VARIABLE, str(cert))
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    assert not choose_signer(None, None).local


def test_half_a_signer_is_refused(tmp_path: Path) -> None:
    cert, key = files_of(tmp_path)
    for pair in ((cert, None), (None, key)):
        with pytest.raises(UsageError, match="signs only together"):
            choose_signer(*pair)


def test_what_cannot_sign_is_named(tmp_path: Path) -> None:
    cert, key = files_of(tmp_path)
    with pytest.raises(InputMissingError, match="nowhere.pem"):
        load_signer(tmp_path / "nowhere.pem", key)
    key.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(UsageError, match="not the key of the first certificate"):
        load_signer(cert, key)
    key.write_bytes(pem(ed25519.Ed25519PrivateKey.generate(), b"secret"))
    with pytest.raises(UsageError, match="locked"):
        load_signer(cert, key)
    key.write_bytes(b"no key")
    with pytest.raises(UsageError, match="no PEM key"):
        load_signer(cert, key)


def test_the_key_tells_the_algorithm() -> None:
    assert algorithm_of(ec.generate_private_key(ec.SECP256R1()), "k") == "es256"
    assert algorithm_of(ec.generate_private_key(ec.SECP384R1()), "k") == "es384"
    assert algorithm_of(ed25519.Ed25519PrivateKey.generate(), "k") == "ed25519"
    assert algorithm_of(rsa.generate_private_key(65537, 2048), "k") == "ps256"
    for unknown in (ec.generate_private_key(ec.SECP256K1()), dsa.generate_private_key(1024)):
        with pytest.raises(UsageError, match="C2PA cannot use"):
            algorithm_of(unknown, "k")
