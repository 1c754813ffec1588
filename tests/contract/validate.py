"""Validates documents with a schema: those that are good must fit, and the others must not."""

import json
import sys

import jsonschema_rs

with open(sys.argv[1]) as file:
    given = json.load(file)
validator = jsonschema_rs.validator_for(given["schema"])
wrong = 0
for document in given["documents"]:
    errors = [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(document["value"])]
    if document["is_good"] == bool(errors):
        wrong += 1
        print(f"{document['text']}\n{errors or 'fits'}")
sys.exit(1 if wrong else 0)
