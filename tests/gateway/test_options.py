"""The gateway's file: what makes no sense stops the service with the name of the field."""

import pytest

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.gateway.options import read_options
from fiscus.gateway.upstreams import Upstreams

GOOD = 'name = "a"\nfamily = "openai"\nbase_url = "http://127.0.0.1/v1"\n'
WRONG = (
    (b"\xff", "gateway.toml"),
    (b"upstreams = 3", "upstreams"),
    (b"surprise = 1", "surprise"),
    (b"attempts_max = 0", "attempts_max"),
    (b"drain_s_max = -1", "drain_s_max"),
    (f'[[upstreams]]\n{GOOD}api_kee = "x"\n'.encode(), "api_kee"),
    (f"[[upstreams]]\n{GOOD}[[upstreams]]\n{GOOD}".encode(), "upstreams[1].name"),
    (f'[[upstreams]]\n{GOOD}api_key = "x"\napi_key_variable = "Y"\n'.encode(), "api_key_variable"),
    (b'[[upstreams]]\nname = "a"\nfamily = "openai"\nbase_url = "ftp://x"\n', "upstreams[0].base_url"),
    (b'[[upstreams]]\nname = "a"\nfamily = "openai"\nbase_url = "http://me:pw@x/v1"\n', "upstreams[0].base_url"),
    (b'[[upstreams]]\nname = ""\nfamily = "openai"\nbase_url = "http://x/v1"\n', "upstreams[0].name"),
)


@pytest.mark.parametrize(("text", "named"), WRONG)
def test_what_makes_no_sense_is_named(text, named):
    with pytest.raises(ConfigurationInvalid) as raised:
        read_options(text, "gateway.toml")
    assert named in str(raised.value)
    assert "me:pw" not in str(raised.value)


def test_what_makes_sense_is_taken():
    options = read_options(f"account = 'team:a'\n[[upstreams]]\n{GOOD}models = ['gpt-*']\n".encode(), "gateway.toml")
    [upstream] = options.upstreams
    assert upstream.serves("gpt-5")
    assert not upstream.serves("llama")
    assert upstream.priced_as == "openai"


async def test_an_upstream_for_every_model_is_not_asked_for_one_that_another_names():
    text = (
        '[[upstreams]]\nname = "all"\nfamily = "openai"\nbase_url = "http://127.0.0.1/v1"\n'
        '[[upstreams]]\nname = "local"\nfamily = "openai"\nbase_url = "http://127.0.0.2/v1"\nmodels = ["llama*"]\n'
    )
    upstreams = Upstreams(read_options(text.encode(), "gateway.toml"))
    assert [target.upstream.name for target in upstreams.targets("openai", "llama3")] == ["local"]
    assert [target.upstream.name for target in upstreams.targets("openai", "gpt-5")] == ["all"]
    await upstreams.close()
