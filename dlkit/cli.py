"""The command line: recipes over LightningCLI.

Listing and help read files and nothing else; torch is imported when a run begins.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import dlkit
from dlkit.errors import CommandLineError

RECIPES = Path(__file__).parent / "recipes"
COMMANDS = ("fit", "validate", "test", "cp")
LOGS = Path("lightning_logs")
SHORTHANDS = {"--seed": "--seed_everything", "--fast_dev_run": "--trainer.fast_dev_run"}
# What the command line takes from the datamodule wherever both have it, and where the method requires it.
LINKED_ALWAYS = (
    *("num_levels", "char_vocab_size", "vocabulary", "source_vocabulary", "target_vocabulary"),
    *("target_mean", "target_std", "target_names", "node_features", "edge_features", "graph_features"),
)
LINKED = (
    *("data_shape", "num_classes", "vocab_size", "num_tags", "num_targets", "num_values"),
    *("source_vocab_size", "target_vocab_size"),
)

USAGE = """\
usage: {program} RECIPE [--model.FIELD VALUE] [--data.FIELD VALUE] [--trainer.FIELD VALUE] [--seed N]
       {program} RECIPE --resume          continue the newest run of this recipe, exactly
       {program} test RECIPE              evaluate its best checkpoint on the test data
       {program} validate RECIPE          the same on the validation data; --ckpt_path FILE takes another checkpoint
       {program} cp RECIPE my.yaml        copy a recipe, to edit it
       {program} --config my.yaml         run a file of your own
       {program} RECIPE --help            the fields of a recipe

  --compile            compile the networks that gain from it
  --seed N             seed of the run (0)
  --trainer.precision bf16-mixed, --trainer.devices 2, ...   any argument of Lightning's Trainer
"""


# Without torch -------------------------------------------------------------------------------------------------------


def recipes() -> dict[str, Path]:
    """Every recipe that dlkit ships, by name."""
    return {path.stem: path for path in sorted(RECIPES.rglob("*.yaml"))}


def headline(path: Path) -> tuple[str, str]:
    """A recipe's first comment line, "what it is. how long it takes", taken apart at its last sentence."""
    line = path.read_text().splitlines()[0].removeprefix("#").strip()
    what, _, time = line.rstrip(".").rpartition(". ")
    return (what, time) if what else (line, "")


def comment(path: Path, key: str) -> str:
    """The text behind "# Key: " in a recipe; nothing where there is none."""
    lines = path.read_text().splitlines()
    return next((line.removeprefix(f"# {key}: ").strip() for line in lines if line.startswith(f"# {key}: ")), "")


def suggestion(name: str, known: list[str]) -> str:
    """ ", did you mean ...?" or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are: {', '.join(sorted(known))}"


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Raises:
        CommandLineError: there is none of that name.
    """
    if name not in recipes():
        mends = {
            ".yaml": f"a file of your own is given as --config {name}",
            ".ckpt": f"a checkpoint is tested by --ckpt_path {name}",
        }
        mend = mends.get(Path(name).suffix) or suggestion(name, list(recipes()))
        raise CommandLineError(f"there is no recipe '{name}'\n{mend}")
    return recipes()[name]


def class_fields(class_path: str) -> dict[str, str]:
    """The arguments of a class's `__init__`, name -> "type = default", read from its source without importing it.

    Classes outside dlkit, whose source is not looked for, have none.
    """
    package, _, name = class_path.rpartition(".")
    if package not in ("dlkit", "datamodules"):
        return {}
    exports = dlkit.EXPORTS if package == "dlkit" else literal_exports("datamodules")
    if name not in exports:
        return {}
    root = Path(dlkit.__file__).parent.parent
    source = (root / Path(*exports[name].split("."))).with_suffix(".py").read_text()
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    node: ast.ClassDef | None = classes[name]
    while node is not None:
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                arguments, defaults = item.args.args[1:], item.args.defaults
                padding: list[ast.expr | None] = [None] * (len(arguments) - len(defaults))
                return {
                    argument.arg: (ast.unparse(argument.annotation) if argument.annotation else "")
                    + (f" = {ast.unparse(default)}" if default is not None else "")
                    for argument, default in zip(arguments, [*padding, *defaults], strict=True)
                }
        base = node.bases[0] if node.bases else None
        node = classes.get(base.id) if isinstance(base, ast.Name) else None
    return {}


def literal_exports(package: str) -> dict[str, str]:
    """The EXPORTS table of a package, which costs nothing to import."""
    return importlib.import_module(package).EXPORTS


def recipe_classes(path: Path) -> dict[str, str]:
    """{"model": class path, "data": class path} of a configuration file, as written in it.

    Raises:
        CommandLineError: the file cannot be read as YAML.
    """
    import yaml

    try:
        config = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandLineError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise CommandLineError(f"{path} cannot be read ({error.strerror}): name a .yaml file with --config") from error
    if not isinstance(config, dict):
        raise CommandLineError(f"{path} holds no settings: a recipe has the sections model, data and trainer")
    classes = {}
    for section in ("model", "data"):
        content = config.get(section)
        if isinstance(content, dict) and isinstance(content.get("class_path"), str):
            classes[section] = content["class_path"]
        elif isinstance(content, str):
            classes[section] = content
    return classes


def print_recipes(program: str) -> None:
    """Names, what they do, how long they take."""
    print(USAGE.format(program=program))
    print("recipes, with their time on two CPU cores:")
    width = max(map(len, recipes()))
    for name, path in recipes().items():
        what, time = headline(path)
        print(f"  {name:{width}}  {what}  [{time}]")


def print_recipe_help(path: Path, program: str) -> None:
    """A recipe's comments and every field that can be overridden."""
    lines = path.read_text().splitlines()
    print("\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#")))
    print(f"\n{USAGE.format(program=program)}")
    for section, class_path in recipe_classes(path).items():
        print(f"--{section}: {class_path}")
        for name, described in class_fields(class_path).items():
            print(f"  --{section}.{name}: {described}")
    print("--trainer: lightning.Trainer, see its documentation; --checkpoint.monitor, --checkpoint.mode,")
    print("--checkpoint.every_n_seconds, --pictures.every_n_epochs")


def runs_of(recipe: str) -> list[Path]:
    """The folders of a recipe's runs, oldest first."""
    folders = [path for path in (LOGS / recipe).glob("version_*") if path.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("version_")))


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint lies in, as `checkpoints/best.ckpt`."""
    return checkpoint.absolute().parent.parent


def next_version(recipe: str) -> int:
    """The number of a recipe's next run."""
    return max((int(run.name.removeprefix("version_")) for run in runs_of(recipe)), default=-1) + 1


def pop_flag(arguments: list[str], flag: str) -> bool:
    """Removes a flag, and says whether it was there."""
    found = flag in arguments
    while flag in arguments:
        arguments.remove(flag)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for a command that makes no sense.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = "dlkit" if Path(sys.argv[0]).name == "dlkit" else "python scripts/fit.py"
    try:
        return dispatch(arguments, program)
    except CommandLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the run began; a run answers by itself
        print("stopped before anything was trained", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a long listing went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def dispatch(arguments: list[str], program: str) -> int:
    """Takes a command apart, and does what needs no torch."""
    if not arguments or arguments in (["list"], ["-h"], ["--help"]):
        print_recipes(program)
        return 0
    command = arguments.pop(0) if arguments[0] in COMMANDS else "fit"
    recipe = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if command == "cp":
        if recipe is None or len(arguments) != 1:
            raise CommandLineError(f"cp takes a recipe and a file\nfor example: {program} cp vae-digits my.yaml")
        return copy_recipe(recipe, Path(arguments[0]))
    path = find_recipe(recipe) if recipe else config_argument(arguments, program)
    if any(argument.startswith("-c") or argument.partition("=")[0] == "--config" for argument in arguments):
        raise CommandLineError(f"--config names a second file beside {recipe or path}\nput its settings into one file: see cp")
    if "-h" in arguments or "--help" in arguments:
        print_recipe_help(path, program)
        return 0
    name = recipe or path.stem
    resume, compiled = pop_flag(arguments, "--resume"), pop_flag(arguments, "--compile")
    arguments = [expand_shorthand(argument) for argument in arguments]
    if arguments[-1:] == ["--trainer.fast_dev_run"]:
        arguments[-1] = "--trainer.fast_dev_run=true"
    for option, following in itertools.pairwise([*arguments, "--"]):
        if re.fullmatch(r"--(?!.*help)\w+\.[\w.]+", option) and following.startswith("--"):
            raise CommandLineError(f"{option} needs a value\ngive one after it")
    version, checkpoint = None, None
    if resume:
        refuse_overrides(arguments)
    for option, given in (
        ("--resume", resume),
        ("--compile", compiled),
        ("--seed", "--seed_everything" in options_of(arguments)),
    ):
        if given and command != "fit":
            raise CommandLineError(f"{option} says how to train\nleave it out: {command} measures a run as it was trained")
    if resume or command != "fit":
        path, version, checkpoint = newest_run(name, command, path, arguments)
    from dlkit.runner import run

    return run(command, name, path, arguments, version, checkpoint, compiled)


def refuse_overrides(arguments: list[str]) -> None:
    """Refuses what would make a resumed run another run.

    Raises:
        CommandLineError: naming the option.
    """
    for option in options_of(arguments):
        if not option.startswith(("--trainer.", "--checkpoint.", "--pictures.")):
            raise CommandLineError(
                f"{option} cannot change in a run that is resumed\nleave it out, or start a new run without --resume"
            )


def expand_shorthand(argument: str) -> str:
    """--seed and its like, in full."""
    name, equals, value = argument.partition("=")
    return SHORTHANDS.get(name, name) + equals + value


def config_argument(arguments: list[str], program: str) -> Path:
    """Takes `--config FILE` out of the arguments.

    Raises:
        CommandLineError: there is none.
    """
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c"):
            if not equals and index + 1 == len(arguments):
                raise CommandLineError("--config needs a file\nfor example: --config my.yaml")
            value = value if equals else arguments[index + 1]
            del arguments[index : index + (1 if equals else 2)]
            if not Path(value).is_file():
                raise CommandLineError(f"there is no file {value}\nname a recipe, or an existing .yaml file with --config")
            return Path(value)
    raise CommandLineError(f"no recipe was named\nrun `{program}` for the list of recipes, or give --config FILE")


def copy_recipe(recipe: str, target: Path) -> int:
    """Copies a recipe to a file that does not exist yet."""
    if target.exists():
        raise CommandLineError(f"{target} exists already\nname another file, or remove it first")
    try:
        shutil.copyfile(find_recipe(recipe), target)
    except OSError as error:
        with contextlib.suppress(OSError):
            target.unlink(missing_ok=True)  # what a full disk left of it
        raise CommandLineError(f"{target} cannot be written ({error.strerror})\nname a file in an existing folder") from error
    print(f"copied {recipe} to {target}: edit it, then run `fit.py --config {target}`")
    return 0


def newest_run(name: str, command: str, path: Path, arguments: list[str]) -> tuple[Path, int, Path | None]:
    """The configuration, the version and the checkpoint of a recipe's newest run.

    Raises:
        CommandLineError: there is no run, or none with a checkpoint where one is needed.
    """
    for index, argument in enumerate(arguments):
        if argument.partition("=")[0] == "--ckpt_path":
            value = argument.partition("=")[2] or (arguments[index + 1] if index + 1 < len(arguments) else "")
            del arguments[index : index + (1 if "=" in argument else 2)]
            if not Path(value).is_file():
                raise CommandLineError(f"there is no checkpoint {value}\nname a .ckpt file")
            config = run_of(Path(value)) / "config.yaml"
            if not config.is_file():
                print(f"{value} lies in no run's folder, with the settings it was trained with: taking those of {path.name}")
            return (config if config.is_file() else path), -1, Path(value)
    runs = runs_of(name)
    if not runs:
        raise CommandLineError(f"there is no run of {name} in {LOGS}/ below this folder\ntrain one first: fit.py {name}")
    # To go on is to go on with the newest run, also from its beginning; what is measured is the newest that can be.
    # A run that was killed before it wrote its settings has done nothing.
    begun = [run for run in runs if (run / "config.yaml").is_file() or any(run.glob("checkpoints/*.ckpt"))] or runs
    names, runs = (("last.ckpt",), begun[-1:]) if command == "fit" else (("best.ckpt", "last.ckpt"), runs)
    found = [(run, run / "checkpoints" / file) for run in reversed(runs) for file in names]
    run, checkpoint = next(((run, file) for run, file in found if file.is_file()), (runs[-1], None))
    if checkpoint is None and command != "fit":
        raise CommandLineError(f"no run of {name} has a checkpoint yet\ntrain one first: fit.py {name}")
    config, best = run / "config.yaml", run / "checkpoints" / "best.ckpt"
    if checkpoint is None and best.is_file() and (run / "run.json").is_file():  # it was trained to its end
        raise CommandLineError(f"{run} has no last.ckpt to go on from\ncopy its best.ckpt there, or start a new run")
    if checkpoint is not None and not config.is_file():
        raise CommandLineError(
            f"{run} has lost its config.yaml, without which it would be another run\nrestore it, or start a new run"
        )
    if checkpoint is None:
        print(f"{run} was stopped before its first checkpoint to go on from: it starts from the beginning")
    elif run != runs[-1]:
        print(f"{runs[-1]} has no checkpoint: taking {run}")
    version = int(run.name.removeprefix("version_"))
    return (config if config.is_file() else path), version, checkpoint


def options_of(arguments: list[str]) -> Iterator[str]:
    """The names of the options in a command, without values."""
    for argument in arguments:
        if argument.startswith("--"):
            yield argument.partition("=")[0]


def tidy(message: str) -> str:
    """A parser's message in one or two lines: the option, what it takes, what it was given."""
    message = re.sub(r"\s+", " ", message).strip()
    section = re.match(r'(?:Parser key )?"?([\w.]+)"?: ', message)
    prefix = section.group(1) if section else ""
    missing = re.search(r"the following arguments are required: ([\w, ]+?)(?: - |$)", message)
    if missing:
        names = ", ".join(f"--{prefix}.{name.strip()}" for name in missing.group(1).split(","))
        return f"missing: {names}\nadd it to the command or to the recipe, or choose data that says it"
    inner = re.search(r'class_path .+?: Parser key "([\w.]+)": (.+)', message)
    option, reason = (f"--{prefix}.{inner.group(1)}", inner.group(2)) if inner else (f"--{prefix}", message)
    expected = re.search(r"Expected an? (.+?)\. Got value: (\S+)", reason)
    union = re.search(r"Union subtypes Subtypes: \[(.+?)\] Errors:.*?Given value: (\S+)", reason)
    told = union or expected
    if section and told:
        return f"{option} cannot be {told.group(2)}\nit takes {plain_type(told.group(1))}"
    return message


def plain_type(kind: str) -> str:
    """A Python type as a user would say it: <class 'int'> -> int, typing.Literal['a', 'b'] -> 'a' or 'b'."""
    kind = re.sub(r"typing\.Literal\[(.+?)\]", lambda found: found.group(1), kind)
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind).replace(", ", " or ")
