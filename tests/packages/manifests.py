"""Prints YAML files, or the manifests of a chart, as JSON.

    manifests.py yaml FILE
    manifests.py chart FOLDER VALUES

`chart` lints the chart with Helm's own code, renders it with VALUES (JSON), and validates each manifest against the
schemas of Kubernetes and of the Prometheus Operator. An unknown field is an error.
"""

import json
import sys

import yaml


def chart(folder, values):
    import helm_python as helm
    import kubernetes_validate

    lint = helm.lint(folder)
    # Severity 1 is information.
    found = [message for message in lint["messages"] if message["severity"] > 1] + lint["errors"]
    assert not found, found
    with helm.Chart.load(folder) as loaded:
        files = loaded.render(values, name="demo", namespace="prod")
    texts = (text for name, text in files.items() if name.endswith(".yaml"))
    manifests = [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]
    for manifest in manifests:
        if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            # It takes seconds to load.
            from cloudcoil.models.prometheus_operator import v1

            model = getattr(v1, manifest["kind"]).model_validate(manifest)
            known = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
            assert known == manifest, f"unknown fields: {manifest} is read as {known}"
        else:
            kubernetes_validate.validate(manifest, "1.37.0", strict=True)
    return manifests


match sys.argv[1:]:
    case ["yaml", file]:
        with open(file) as text:
            print(json.dumps(yaml.safe_load(text)))
    case ["chart", folder, values]:
        print(json.dumps(chart(folder, json.loads(values))))
    case _:
        sys.exit(__doc__)
