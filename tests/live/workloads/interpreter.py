# -*- coding: utf-8 -*-
"""Busy in the interpreter's loop, its C code, and back from C into Python, for the CPU seconds given; any Python from 2.7."""
import json
import os
import re
import sys
import time


class Item(object):
    def __init__(self, value):
        self.value = value

    def __lt__(self, other):
        return self.value < other.value


def recurse(depth):
    return depth if depth < 2 else recurse(depth - 1) + recurse(depth - 2)


def numbers(count):
    for number in range(count):
        yield number * number


time.sleep(0.3)  # whoever watches has time to learn of this process
while sum(os.times()[:2]) < float(sys.argv[1]):
    recurse(12)
    sorted([Item(number * 7919 % 1000) for number in range(300)])
    json.loads(json.dumps([{"name": str(number), "of": list(range(9))} for number in range(50)], sort_keys=True))
    re.sub("[a-z]+", lambda match: match.group().upper(), "some words to match " * 20)
    sum(map(lambda number: number + 1, numbers(500)))
    try:
        raise ValueError("caught below")
    except ValueError:
        pass
