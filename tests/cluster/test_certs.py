"""`shoal certs` and `shoal key`: what they write is private, whole, and what the configuration takes."""

import ssl

import pytest
import yaml

from shoal.cluster.cli.main import main
from shoal.cluster.tenants import Tenants
from shoal.proto.config import parse_config


def test_the_printed_lines_are_a_configuration_and_the_files_are_private(tmp_path, capsys):
    folder = tmp_path / "certs"
    assert main(["certs", str(folder), "--host", "shoal.example", "--host", "10.0.0.7"]) == 0
    tls = parse_config(yaml.safe_load(capsys.readouterr().out)).tls
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.edge_cert, tls.edge_key)
    named = ssl._ssl._test_decode_cert(str(tls.edge_cert))["subjectAltName"]
    assert set(named) == {("DNS", "shoal.example"), ("IP Address", "10.0.0.7")}
    assert main(["certs", str(folder)]) == 1, "nothing is overwritten"


def test_a_new_key_is_known_by_the_line_that_is_printed_with_it(capsys):
    assert main(["key", "ada"]) == 0
    shown, line = capsys.readouterr().out.splitlines()
    key, keys = shown.split()[-1], yaml.safe_load("sha256" + line.split("sha256", 1)[1])
    assert Tenants(keys, "s").authenticate(f"Bearer {key}") == "ada"
    assert key not in line and len(key) > 40


@pytest.mark.parametrize("words", [["certs"], ["key"]])
def test_what_is_missing_is_said(words):
    with pytest.raises(SystemExit):
        main(words)
