"""Certificates of a test federation, good ones and every kind of bad one."""

import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from peer import Identity

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
DAY = datetime.timedelta(days=1)


def subject(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Federation:
    """A CA and what it has issued, as PEM files in `directory`."""

    def __init__(self, directory, domain="lab", name="CA of lab"):
        self.directory = directory
        self.domain = domain
        os.makedirs(directory, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = subject(name)
        certificate = self._builder(self.name, self.key.public_key(), 0).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, digital_signature=False,
                          content_commitment=False, key_encipherment=False,
                          data_encipherment=False, key_agreement=False, encipher_only=False,
                          decipher_only=False), critical=True).add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False).sign(self.key, hashes.SHA256())
        self.trust = self._write("ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
        self.relay = self.issue("relay", uris=[f"spiffe://{domain}/relay/one"], usages=[SERVER])
        self.peers = {}

    def peer(self, name, cluster="team"):
        """The peer of this name, always the same."""
        if (name, cluster) not in self.peers:
            self.peers[name, cluster] = self.issue(
                f"{cluster}-{name}", uris=[f"spiffe://{self.domain}/{cluster}/{name}"])
        return self.peers[name, cluster]

    def issue(self, file, uris=(), usages=(CLIENT,), cn=None, since=0, days=30):
        """A certificate by this CA, valid from `since` days from now on for `days` days."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(subject(cn or file), key.public_key(), since, days)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Identity(
            self._write(f"{file}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{file}.key", key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption())))

    def _builder(self, name, public_key, since, days=30):
        begin = datetime.datetime.now(datetime.timezone.utc) - DAY / 24 + since * DAY
        return x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(
            public_key).serial_number(x509.random_serial_number()).not_valid_before(
            begin).not_valid_after(begin + days * DAY).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)

    def _write(self, name, data):
        path = os.path.join(self.directory, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        return path
