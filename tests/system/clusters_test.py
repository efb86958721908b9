"""The scripts of docs/clusters.md, taken from the page and run with stand-ins for what a cluster has."""

import json
import os
import re
import subprocess

import pytest

from mulsupcon_tf.config.flag_files import flag_file_names, package_file
from tests.helpers.binaries import REPOSITORY

yaml = pytest.importorskip("yaml")

PAGE = (REPOSITORY / "docs" / "clusters.md").read_text(encoding="utf-8")
BLOCKS = {
    heading: re.findall(r"```(?:bash|yaml)\n(.*?)```", text, re.DOTALL)[0]
    for heading, text in re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
SLURM = {name: block for name, block in BLOCKS.items() if name.startswith("Slurm")}
KUBERNETES = {name: list(yaml.safe_load_all(block)) for name, block in BLOCKS.items() if name.startswith("Kubernetes")}
HOSTS = ("node1", "node2", "node7", "gpu-a")
# `srun` runs its command once a task; `python` notes what it was given and ends with the status that the test wants.
STAND_INS = {
    "srun": """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
worst=0
for ((task = 0; task < TASKS; task++)); do
  SLURM_PROCID=$task "$@" || worst=$?
done
exit $worst
""",
    "scontrol": """#!/bin/bash
if [ "$1" = show ]; then printf '%s\\n' $HOSTS; else echo "$@" >> "$NOTES/scontrol"; fi
""",
    "getent": "#!/bin/bash\nexit 0\n",
    "python": """#!/bin/bash
printf '%s\\n' "$TF_CONFIG" >> "$NOTES/tf_config"
printf '%s ' "$@" >> "$NOTES/arguments"; echo >> "$NOTES/arguments"
exit "$STATUS"
""",
}


@pytest.fixture
def run_script(tmp_path):
    """Gives a function that runs a script among the stand-ins: its exit status, and what was noted, line by line."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script, status=0, **environment):
        notes = tmp_path / f"{len(list(tmp_path.iterdir()))}-notes"
        notes.mkdir()
        common = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "NOTES": str(notes), "STATUS": str(status)}
        common |= {"DATA": "/data", "RUNS": "/runs", "HOSTS": " ".join(HOSTS), "TF_CONFIG": ""}
        done = subprocess.run(
            ["bash", "-c", script], env=common | environment, capture_output=True, text=True, check=False
        )
        assert not done.stderr
        return done.returncode, {path.name: path.read_text().splitlines() for path in notes.iterdir()}

    return run


def assert_one_cluster(configs, addresses):
    for index, config in enumerate(map(json.loads, configs)):
        assert config == {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    assert len(configs) == len(addresses)


def test_there_are_scripts_for_one_device_one_node_and_several_nodes():
    assert [name.partition(", ")[2] for name in SLURM] == ["one GPU", "one node, several GPUs", "several nodes"]
    assert [name.partition(", ")[2] for name in KUBERNETES] == ["one GPU", "one node, several GPUs", "several nodes"]


@pytest.mark.parametrize("name", SLURM)
@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (143, True)])
def test_a_slurm_script_requeues_what_was_asked_to_stop_and_nothing_else(name, status, requeued, run_script):
    assert SLURM[name].startswith("#!/bin/bash\n#SBATCH ")
    assert subprocess.run(["bash", "-n", "-c", SLURM[name]], check=False).returncode == 0
    tasks = len(HOSTS) if "several nodes" in name else 1
    slurm = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[1-2,7],gpu-a", "TASKS": str(tasks)}
    exit_status, noted = run_script(SLURM[name], status, **slurm)
    assert exit_status == status
    assert noted.get("scontrol", []) == (["requeue 123456"] if requeued else [])
    assert len(noted["arguments"]) == tasks
    assert all(line.startswith("-m mulsupcon_tf.pretrain --flagfile=@coco_pretrain ") for line in noted["arguments"])
    assert all("--data_dir=/data/coco --workdir=/runs/coco" in line for line in noted["arguments"])
    if tasks > 1:
        assert_one_cluster(noted["tf_config"], [f"{host}:23456" for host in HOSTS])


@pytest.mark.parametrize("name", KUBERNETES)
def test_a_manifest_is_complete_and_its_parts_fit_together(name):
    *services, job = KUBERNETES[name]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name", "image", "command", "args", "resources", "volumeMounts"} <= container.keys()
    assert container["resources"]["limits"]["nvidia.com/gpu"] == (1 if "one GPU" in name else 8)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] >= 60
    if "podFailurePolicy" in spec:
        assert pod["restartPolicy"] == "Never"  # what Kubernetes demands beside such a policy
        by_status = {}
        for rule in spec["podFailurePolicy"]["rules"]:
            if "onExitCodes" in rule:
                assert rule["onExitCodes"]["containerName"] == container["name"]
                by_status |= {status: rule["action"] for status in rule["onExitCodes"]["values"]}
        assert by_status == {143: "Ignore", 1: "FailJob"}
    if services:
        service, policy = services
        assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
        workers = {"podSelector": {"matchLabels": {"job-name": job["metadata"]["name"]}}}
        assert policy["spec"] == workers | {
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [workers], "ports": [{"protocol": "TCP", "port": service["spec"]["ports"][0]["port"]}]}
            ],
        }
        assert (service["apiVersion"], service["kind"], service["spec"]["clusterIP"]) == ("v1", "Service", "None")
        assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
        assert pod["subdomain"] == service["metadata"]["name"]
        assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_command_of_a_manifest_builds_the_cluster_and_passes_the_status_on(name, run_script):
    *services, job = KUBERNETES[name]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["/bin/bash", "-c"]
    (script,) = container["args"]
    environment = {entry["name"]: entry["value"] for entry in container.get("env", [])}
    configs = []
    for index in range(job["spec"].get("completions", 1)):
        status, noted = run_script(script, 143, **environment, JOB_COMPLETION_INDEX=str(index))
        assert status == 143
        (arguments,) = noted["arguments"]
        assert arguments.startswith("-m mulsupcon_tf.pretrain --flagfile=@coco_pretrain ")
        configs += noted["tf_config"]
    if services:
        (port,) = services[0]["spec"]["ports"]
        job_name, service = job["metadata"]["name"], services[0]["metadata"]["name"]
        assert environment["JOB"] == job_name
        assert_one_cluster(
            configs, [f"{job_name}-{index}.{service}:{port['port']}" for index in range(job["spec"]["completions"])]
        )


def test_the_page_begins_with_the_open_port_and_says_what_must_separate_the_nodes():
    warning = PAGE.split("\n\n")[1]
    assert warning.startswith("> **A worker of `--strategy=multiworker` is an open door.**")
    assert "read and write files" in warning
    assert "#### What must separate the nodes\n" in PAGE.split("### Slurm, several nodes\n")[1].split("\n## ")[0]


def test_where_adamw_gets_a_larger_batch_than_that_of_the_flag_file_its_rate_is_said_to_be_chosen_anew():
    (pretraining,) = set(re.findall(r"--flagfile=@(\w+)", PAGE))
    assert "--batch_size=128\n" in package_file(pretraining).read_text(encoding="utf-8")
    sections = re.findall(r"^### .*?(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    larger = [text for text in sections if "--batch_size=" in text and "--optimizer=" not in text]
    assert len(larger) == 2
    assert all("that of a batch of 128" in text and "(`--learning_rate`)" in text for text in larger)


def test_every_strategy_is_shown_and_every_flagfile_is_one_of_the_package():
    """Which is found in a pod without a checkout, too."""
    names = re.findall(r"--flagfile=@([\w/]+)", PAGE)
    assert len(names) == PAGE.count("--flagfile=")
    assert set(names) <= set(flag_file_names())
    assert set(re.findall(r"--strategy=(\w+)", PAGE)) == {"mirrored", "multiworker"}
    for test in re.findall(r"tests/\w+\.py", PAGE):
        assert (REPOSITORY / test).is_file()
