"""Bodies as Go reads them: keys in any case, the last of equal ones, nulls, Go's words for what does not fit.

The texts of errors are those of dockerd 20.10 for the same bodies.
"""

import json
from typing import Any

import msgspec
import pytest

from proa.api import gojson
from proa.api.bodies import Body
from proa.errors import InvalidParameter
from proa.schema.container import ContainerCreateRequest, ContainerUpdateRequest, HostConfig
from proa.schema.network import NetworkCreateRequest
from proa.schema.registry import Credentials
from proa.schema.volume import VolumeCreateOptions

WHOLE = {
    "Image": "busybox",
    "Cmd": ["true"],
    "Labels": {"Foo": "1", "foo": "2"},
    "ExposedPorts": {"80/tcp": {}},
    "HostConfig": {
        "Memory": 8388608,
        "PortBindings": {"80/tcp": [{"HostPort": "8000"}]},
        "Mounts": [{"Type": "volume", "Target": "/x", "VolumeOptions": {"Labels": {"A": "b"}}}],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
    },
    "NetworkingConfig": {"EndpointsConfig": {"Mine": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "x"}}}},
}
MAPS = ("Labels", "ExposedPorts", "PortBindings", "EndpointsConfig")


def respelled(value: Any, spell: Any, is_map: bool = False) -> Any:
    """The value with its structs' keys in another spelling."""
    if isinstance(value, dict):
        return {
            key if is_map else spell(key): respelled(each, spell, not is_map and key in MAPS)
            for key, each in value.items()
        }
    return [respelled(each, spell) for each in value] if isinstance(value, list) else value


def create(body: str | bytes) -> ContainerCreateRequest:
    return Body(ContainerCreateRequest).decode(body.encode() if isinstance(body, str) else body)


class TestSpelling:
    """Keys of structs in any case; those of maps as they are."""

    @pytest.mark.parametrize(
        "spell", [str.lower, str.upper, str.swapcase, lambda key: key[0].lower() + key[1:]]
    )
    def test_any_case_at_any_depth(self, spell: Any) -> None:
        body = json.dumps(respelled(WHOLE, spell)).encode()
        assert msgspec.to_builtins(create(body)) == msgspec.to_builtins(
            msgspec.convert(WHOLE, ContainerCreateRequest)
        )

    def test_exact_keys_are_decoded_strictly_and_alike(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gojson, "decode", None)
        body = json.dumps(WHOLE).encode()
        decoded = create(body)
        assert isinstance(decoded, ContainerCreateRequest)
        assert isinstance(decoded.host_config, HostConfig)
        plain = msgspec.json.decode(body, type=ContainerCreateRequest)
        assert msgspec.json.encode(decoded) == msgspec.json.encode(plain)

    def test_the_last_of_equal_keys_counts_and_objects_grow_together(self) -> None:
        assert create('{"image":"a","IMAGE":"b","Image":"c","image":"d"}').image == "d"
        both = create('{"HostConfig":{"Memory":1},"hostConfig":{"CpuShares":2}}').host_config
        assert both is not None
        assert (both.memory, both.cpu_shares) == (1, 2)
        assert create('{"labels":{"a":"1"},"Labels":{"b":"2"}}').labels == {"a": "1", "b": "2"}
        assert create('{"env":["a"],"Env":["b"]}').env == ["b"]

    def test_letters_that_fold_to_ascii(self) -> None:
        assert create('{"\u017ftoptimeout":3}').stop_timeout == 3

    def test_unknown_members_are_passed_over(self) -> None:
        body = '{"Nonsense":[1,{"a":null}],"image":"b","HostConfig":{"Foo":1.5,"Dns":["x"]}}'
        decoded = create(body)
        assert decoded.host_config is not None
        assert (decoded.image, decoded.host_config.dns) == ("b", ["x"])

    def test_credentials(self) -> None:
        found = Body(Credentials).decode(b'{"Username":"u","serverAddress":"s","IdentityToken":"t"}')
        assert (found.username, found.server_address, found.identity_token) == ("u", "s", "t")


class TestNulls:
    """Nothing for a field, Go's zero value in a map or a list."""

    def test_of_fields(self) -> None:
        decoded = create('{"Image":null,"Env":null,"Tty":null,"HostConfig":{"Memory":null,"LogConfig":null}}')
        assert (decoded.image, decoded.env, decoded.tty) == ("", None, False)
        assert create("null").image == ""
        assert create('{"image":"a","Image":null}').image == "a"
        assert create('{"labels":{"a":"b"},"Labels":null}').labels is None

    def test_within_maps_and_lists(self) -> None:
        decoded = create(
            '{"Labels":{"a":null},"ExposedPorts":{"80/tcp":null},"Cmd":["a",null],"Env":["A=b",null],'
            '"HostConfig":{"PortBindings":{"80/tcp":null},"Mounts":[null]}}'
        )
        assert decoded.host_config is not None
        assert decoded.labels == {"a": ""}
        assert decoded.exposed_ports == {"80/tcp": None}
        assert (decoded.cmd, decoded.env) == (["a", ""], ["A=b", ""])
        assert decoded.host_config.port_bindings == {"80/tcp": None}
        assert decoded.host_config.mounts is not None
        assert decoded.host_config.mounts[0].type == ""

    def test_a_word_for_a_list(self) -> None:
        decoded = create('{"cmd":"a","Entrypoint":"b","HostConfig":{"CapAdd":"ALL"}}')
        assert decoded.host_config is not None
        assert (decoded.cmd, decoded.entrypoint, decoded.host_config.cap_add) == (["a"], ["b"], ["ALL"])


WRAPPER = "struct field ContainerConfigWrapper"
HOST = "struct field HostConfig.HostConfig"


class TestWords:
    """What dockerd says of bodies that do not fit."""

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ('{"Image":5}', f"number into Go {WRAPPER}.Image of type string"),
            ('{"image":{}}', f"object into Go {WRAPPER}.Image of type string"),
            ('{"Tty":"true"}', f"string into Go {WRAPPER}.Tty of type bool"),
            ('{"Cmd":5}', f"number into Go {WRAPPER}.Cmd of type string"),
            ('{"Cmd":[1]}', f"array into Go {WRAPPER}.Cmd of type string"),
            ('{"Cmd":{}}', f"object into Go {WRAPPER}.Cmd of type string"),
            ('{"Env":"A=b"}', f"string into Go {WRAPPER}.Env of type []string"),
            ('{"Labels":[]}', f"array into Go {WRAPPER}.Labels of type map[string]string"),
            ('{"Labels":{"a":1}}', f"number into Go {WRAPPER}.Labels of type string"),
            ('{"ExposedPorts":[]}', f"array into Go {WRAPPER}.ExposedPorts of type nat.PortSet"),
            ('{"ExposedPorts":{"80":"x"}}', f"string into Go {WRAPPER}.ExposedPorts of type struct {{}}"),
            ('{"StopTimeout":"5"}', f"string into Go {WRAPPER}.StopTimeout of type int"),
            (
                '{"Healthcheck":{"Interval":"5s"}}',
                "string into Go struct field HealthConfig.Healthcheck.Interval of type time.Duration",
            ),
            ('{"HostConfig":[]}', f"array into Go {WRAPPER}.HostConfig of type container.HostConfig"),
            ('{"HostConfig":{"Memory":"1g"}}', f"string into Go {HOST}.Memory of type int64"),
            ('{"HostConfig":{"Memory":1.5}}', f"number 1.5 into Go {HOST}.Memory of type int64"),
            ('{"hostConfig":{"memory":1e7}}', f"number 1e7 into Go {HOST}.Memory of type int64"),
            (
                '{"HostConfig":{"Memory":99999999999999999999}}',
                f"number 99999999999999999999 into Go {HOST}.Memory of type int64",
            ),
            (
                '{"HostConfig":{"PortBindings":{"80":{}}}}',
                f"object into Go {HOST}.PortBindings of type []nat.PortBinding",
            ),
            (
                '{"HostConfig":{"PortBindings":{"80":[{"HostPort":80}]}}}',
                "number into Go struct field PortBinding.HostConfig.PortBindings.HostPort of type string",
            ),
            ('{"HostConfig":{"Mounts":["a"]}}', f"string into Go {HOST}.Mounts of type mount.Mount"),
            (
                '{"HostConfig":{"Mounts":[{"ReadOnly":"x"}]}}',
                "string into Go struct field Mount.HostConfig.Mounts.ReadOnly of type bool",
            ),
            ("[]", "array into Go value of type runconfig.ContainerConfigWrapper"),
            ("true", "bool into Go value of type runconfig.ContainerConfigWrapper"),
        ],
    )
    def test_of_types(self, body: str, said: str) -> None:
        with pytest.raises(InvalidParameter) as caught:
            create(body)
        assert str(caught.value) == f"json: cannot unmarshal {said}"

    def test_of_other_bodies(self) -> None:
        for kind, body, said in (
            (NetworkCreateRequest, b'{"IPAM":{"Config":[{"Subnet":5}]}}', "IPAMConfig.IPAM.Config.Subnet"),
            (VolumeCreateOptions, b'{"driveropts":{"a":1}}', "VolumeCreateBody.DriverOpts"),
            (ContainerUpdateRequest, b'{"RestartPolicy":{"Name":5}}', "RestartPolicy.RestartPolicy.Name"),
            (Credentials, b'{"username":5}', "AuthConfig.username"),
        ):
            with pytest.raises(InvalidParameter) as caught:
                Body[Any](kind).decode(body)
            assert str(caught.value) == (
                f"json: cannot unmarshal number into Go struct field {said} of type string"
            )

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"hello", "invalid character 'h' looking for beginning of value"),
            (b'{"Image":"busy', "unexpected EOF"),
            (b"{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
            (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
            (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
            (b'{"a":"b\x01"}', "invalid character '\\x01' in string literal"),
            (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
            (b'{"a" 1}', "invalid character '1' after object key"),
            (b'{"a":1 2}', "invalid character '2' after object key:value pair"),
            (b'{"a":[1 2]}', "invalid character '2' after array element"),
        ],
    )
    def test_of_what_is_no_json(self, body: bytes, said: str) -> None:
        with pytest.raises(msgspec.DecodeError) as caught:
            create(body)
        assert gojson.malformed(body, caught.value) == said

    def test_what_is_nested_too_deep_is_refused(self) -> None:
        with pytest.raises(RecursionError):
            create(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
