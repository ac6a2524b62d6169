"""``VQGAN.from_pretrained(...)`` and ``save_pretrained(...)``: networks on the model hub, through PyTorchModelHubMixin.

The mixin is put on a network's class when one of these methods is called and not before: importing huggingface_hub
takes half a second that no render should wait for, and a machine without it can still train.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from talkswap.checkpoints import networks
from talkswap.checkpoints.manifest import file_path
from talkswap.errors import DependencyError, WeightsCorruptError, WeightsMissingError

CONFIG, MODEL = "config.json", "model"  # the hub's own names: config.json and model.safetensors
REPAIR = "save it again with save_pretrained, or fetch it again"


class HubNetwork:
    """What a network needs to be saved for the model hub and read from it.

    A folder or repository holds either one network under the hub's own names (``config.json``, ``model.safetensors``),
    as :meth:`save_pretrained` writes them, or a whole preset, as `talkswap weights pack` makes it; of a preset the
    files called :attr:`hub_name` are read.
    """

    hub_name: ClassVar[str]  # ROOM/NAME in a preset
    hub_config: ClassVar[type[Any]]

    @classmethod
    def from_pretrained(cls, place: str | Path, **options: Any) -> Self:
        """The network of a folder, or of a repository OWNER/NAME on the hub.

        Args:
            options: those of ``PyTorchModelHubMixin.from_pretrained``: revision, token, cache_dir, local_files_only,
                force_download.

        Returns:
            The network in float32 and in evaluation mode.

        Raises:
            WeightsMissingError: the folder holds no such network.
            WeightsCorruptError: configuration and tensors do not fit.
            DependencyError: huggingface_hub is not installed.
        """
        network: Self = _with_mixin(cls).from_pretrained(str(place), **options)
        return network

    def save_pretrained(self, folder: str | Path, **options: Any) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a short model card into ``folder``.

        Args:
            folder: made when it is not there.

        Raises:
            OutputUnwritableError: the folder cannot be written.
            DependencyError: huggingface_hub is not installed.
        """
        self.__class__ = _with_mixin(type(self))  # this very object gets the mixin's methods
        result: str | None = self.save_pretrained(folder, **options)  # now the mixin's
        return result

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload the network alone to OWNER/NAME; whole presets go with `talkswap weights push`."""
        self.__class__ = _with_mixin(type(self))  # this very object gets the mixin's methods
        result: str = self.push_to_hub(repository, **options)
        return result


def folder_network(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and tensors of a folder that holds one network, or a preset with the network ``name``.

    Raises:
        WeightsMissingError: it holds neither.
        WeightsCorruptError: a file is not what its name says.
    """
    for settings, tensors in ((CONFIG, MODEL), (f"{name}.json", name)):
        files = networks.tensor_files(folder, tensors)
        if files and file_path(folder, settings).is_file():
            paths = [file_path(folder, file) for file in files]
            return networks.read_config(file_path(folder, settings), REPAIR), networks.read_tensors(paths, REPAIR)
    raise WeightsMissingError(
        f"{folder} holds no {name.rpartition('/')[2]} network",
        f"it needs {CONFIG} and {MODEL}.safetensors, or {name}.json and {name}.safetensors",
    )


_classes: dict[type[HubNetwork], Any] = {}  # with the mixin, made when first asked for


def _with_mixin(kind: type[HubNetwork]) -> Any:
    """The same class with the mixin before it."""
    if kind in _classes:
        return _classes[kind]
    try:
        from huggingface_hub import PyTorchModelHubMixin, snapshot_download
    except ImportError as error:
        raise DependencyError(
            "huggingface_hub is not installed, which saves and reads networks for the model hub",
            "pip install 'talkswap[hub]'",
        ) from error
    # An object that was saved has the mixin already.
    if issubclass(kind, PyTorchModelHubMixin):
        return kind

    tags = ["talkswap", kind.hub_name.rpartition("/")[2]]

    class Mixed(PyTorchModelHubMixin, kind, library_name="talkswap", tags=tags):  # type: ignore[misc,valid-type]
        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
            # the mixin would complain of a preset folder, which has no config.json
            if Path(pretrained_model_name_or_path).is_dir():
                return cls._from_pretrained(model_id=str(pretrained_model_name_or_path), **options)
            return super().from_pretrained(pretrained_model_name_or_path, **options)

        def _save_pretrained(self, save_directory: Path) -> None:
            tensors = {k: v for k, v in self.state_dict().items() if not k.endswith("num_batches_tracked")}
            # An earlier save may have left shards where there is one file now, or the other way round.
            for file in save_directory.glob("*.safetensors"):
                if networks.network_of(file.name) == MODEL:
                    file.unlink()
            networks.write_tensors(tensors, save_directory, MODEL)
            settings = json.dumps(asdict(self.config), indent=2) + "\n"
            (save_directory / CONFIG).write_text(settings, encoding="utf-8")

        @classmethod
        def _from_pretrained(cls, *, model_id: str, **options: Any) -> Any:
            folder = Path(model_id)
            if not folder.is_dir():
                request: dict[str, Any] = {
                    k: options.get(k) for k in ("revision", "cache_dir", "force_download", "local_files_only", "token")
                }
                # a preset has the network in its room's folder, an old one at its top
                names = (cls.hub_name, cls.hub_name.rpartition("/")[2])
                patterns = [CONFIG, f"{MODEL}*.safetensors"]
                patterns += [pattern for name in names for pattern in (f"{name}.json", f"{name}*.safetensors")]
                folder = Path(snapshot_download(model_id, allow_patterns=patterns, **request))
            config, tensors = folder_network(folder, cls.hub_name)
            try:
                network = cls(networks.config_from(cls.hub_config, config))
            except (TypeError, ValueError) as error:
                raise WeightsCorruptError(f"{folder} describes no {cls.hub_name} network: {error}", REPAIR) from error
            return networks.fill(network, tensors, cls.hub_name).eval()

    # Under the network's own name, so that pickles and messages don't show the wrapper.
    Mixed.__name__, Mixed.__qualname__, Mixed.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    Mixed.__doc__ = kind.__doc__
    _classes[kind] = Mixed
    return Mixed
