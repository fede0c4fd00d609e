"""Train the teachers that ship with the course."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="teachers (all by default)")
    parser.add_argument(
        "--folder", help="where to store them (data/teachers of the clone, or kdcourse-teachers)"
    )


def run(options: argparse.Namespace) -> None:
    from kdcourse.places import own_folder
    from kdcourse.teachers import shipped

    folder = own_folder(Path(options.folder or shipped.TEACHERS))
    names = shipped.known(options.names)  # before any is trained
    for name in names:
        card = shipped.train_teacher(name, folder)
        for key, unit in {"test_accuracy": "%", "test_nats": "per character"}.items():
            if key in card:
                tested = f"{key.replace('_', ' ')} {card[key]} {unit}"
                print(f"{name}: {tested}, sha256 {card['sha256']}")
    print(f"stored in {folder}")
    if folder != shipped.TEACHERS:
        print(f"pretrained({names[0]!r}, {str(folder)!r}) loads one of them")
