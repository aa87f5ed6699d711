"""`hf:org/repo[:TAG]` fetches, resumes and finds again; the hub is a server on this machine."""

import hashlib
import os
import random
import subprocess
import sys

import pytest

from csaq_cli.hub import choose_file
from csaq_runtime.errors import ModelError, UsageError
from csaq_runtime.kernels.compile import cache_folder
from tests.cli.local_hub import serve_hub

NAMES = ["README.md", "m-F16.gguf", "m-Q4_K_M.gguf", "m-IQ4_XS.gguf", "mmproj-m.gguf"]


@pytest.mark.parametrize(
    ("tag", "file"),
    [(None, "m-Q4_K_M.gguf"), ("f16", "m-F16.gguf"), ("IQ4_XS", "m-IQ4_XS.gguf")],
)
def test_tag_picks_the_file_and_q4_k_m_is_the_default(tag, file):
    assert choose_file(NAMES, "org/m", tag) == file


def test_first_file_is_taken_where_no_preferred_type_is_there():
    assert choose_file(["a/m-Q2_K.gguf", "m-Q6_K.gguf"], "org/m", None) == "a/m-Q2_K.gguf"


def test_type_is_not_found_inside_another_name():
    assert choose_file(["m-IQ4_K_M.gguf", "m.Q4_K_M.gguf"], "o/m", "q4_k_m") == "m.Q4_K_M.gguf"


def test_unknown_tag_names_what_there_is():
    with pytest.raises(UsageError) as failure:
        choose_file(NAMES, "org/m", "Q5_K_M")
    assert "m-IQ4_XS.gguf" in failure.value.hint


@pytest.mark.parametrize("names", [["README.md"], ["m-Q4_K_M-00001-of-00002.gguf"]])
def test_no_file_and_a_file_in_parts_are_refused(names):
    with pytest.raises(ModelError):
        choose_file(names, "org/m", None)


@pytest.fixture
def hub(tiny_gguf):
    data = tiny_gguf.read_bytes()
    with serve_hub("org/tiny", {"tiny-F32.gguf": data, "tiny-Q4_K_M.gguf": data}) as hub:
        yield hub


@pytest.fixture
def environment(hub, tmp_path):
    home = str(tmp_path / "hf")
    return {"HF_ENDPOINT": hub.url, "HF_HOME": home, "XDG_CACHE_HOME": str(tmp_path)}


@pytest.fixture
def unreachable(environment):
    return {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}


def test_model_of_the_hub_is_found_offline_afterwards(csaq, environment, unreachable):
    arguments = ("info", "hf:org/tiny:f32", "--json")
    first = csaq(*arguments, env=environment)
    assert first.returncode == 0, first.stderr
    assert csaq(*arguments, env=unreachable).stdout == first.stdout
    offline = csaq(*arguments, env={**environment, "HF_HUB_OFFLINE": "1"})
    assert offline.stdout == first.stdout


# huggingface_hub writes 10 MiB at a time
LARGE = random.Random(1).randbytes(22 * 2**20)


def test_broken_download_goes_on_in_the_next_process(csaq, tmp_path):
    """All tries of one process break off; the file that the next one gets is whole."""
    with serve_hub("org/large", {"large-F32.gguf": LARGE}) as hub:
        hub.cuts = [21 * 2**20, 0, 0, 0, 0, 0, 0, 0]
        environment = {"HF_ENDPOINT": hub.url, "CSAQ_CACHE_DIR": str(tmp_path)}
        broken = csaq("info", "hf:org/large", env=environment)
        assert broken.returncode == 3
        assert broken.stderr.splitlines()[-1].startswith("hint: try again")
        assert not list(tmp_path.rglob("*.gguf"))
        hub.cuts, hub.ranges = [], []
        done = csaq("info", "hf:org/large", env=environment)
    (path,) = tmp_path.rglob("*.gguf")
    assert f"csaq: {path}: magic" in done.stderr  # fetched, and then read: it is no GGUF
    assert path.read_bytes() == LARGE
    assert hub.ranges == [f"bytes={20 * 2**20}-"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_part_of_another_content_is_noticed_and_thrown_away(csaq, hub, environment, tmp_path):
    data = hub.files["tiny-F32.gguf"]
    folder = tmp_path / "csaq" / "hub" / "org--tiny" / hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True)
    (folder / "tiny-F32.gguf.partial").write_bytes(b"x" * 1000)
    done = csaq("info", "hf:org/tiny:F32", env=environment)
    assert done.returncode == 3
    assert "damaged" in done.stderr
    assert csaq("info", "hf:org/tiny:F32", env=environment).returncode == 0


def test_unknown_model_and_unreachable_hub_are_one_line(csaq, environment, unreachable):
    unknown = csaq("info", "hf:org/nothing", env=environment)
    nowhere = csaq("info", "hf:org/tiny", env=unreachable)
    malformed = csaq("info", "hf:tiny", env=environment)
    assert (unknown.returncode, nowhere.returncode, malformed.returncode) == (3, 3, 2)
    for done in (unknown, nowhere, malformed):
        assert done.stderr.startswith("csaq: ")
        assert len(done.stderr.splitlines()) <= 2, done.stderr


def test_run_takes_a_name_of_the_hub_without_torch(environment, tmp_path):
    (tmp_path / "csaq").mkdir()
    (tmp_path / "csaq" / "kernels").symlink_to(cache_folder())  # compiled ones, to save time
    code = (
        "import sys\nfrom csaq_cli.main import cli\n"
        "cli.main(['run', 'hf:org/tiny', '-p', 'x', '-n', '2'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'csaq_export'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **environment})
