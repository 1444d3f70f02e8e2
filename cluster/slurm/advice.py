"""What to do where SLURM refuses a job, or would never start it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.slurm.squeue import own_words

# A word in the scheduler's answer -> what to do.
ADVICE = {
    "unrecognized option": "correct --extra; `man sbatch` lists what there is",
    "partition": "take another one with --partition; `sinfo` lists them",
    "account": "name yours with --account; `sacctmgr show assoc user=$USER` lists them",
    "qos": "take another one with --qos; `sacctmgr show assoc user=$USER format=account,qos` lists them",
    "node configuration": "ask for less of a node; `sinfo -o '%P %D %c %m %G'` lists cores, MB and GPUs",
    "node name": "correct --nodelist or --exclude; `sinfo -N` lists the nodes",
    "node count": "ask for fewer --nodes; `sinfo -o '%P %D'` lists how many there are",
    "time limit": "shorten --time, a run requeues itself; `sinfo -o '%P %l'` lists the limits",
    "memory": "ask for less with --mem; `sinfo -o '%P %m'` lists the MB of nodes",
    "feature": "change --constraint; `sinfo -o '%P %f'` lists what nodes have",
    "dependency": "correct --dependency; `squeue --me` lists your jobs",
    "gres": "correct --gpus-per-node; `sinfo -o '%P %G'` lists the GPUs of nodes",
}

# A reason for which a job would wait in the queue for ever -> what to do.
HOPELESS = {
    "PartitionNodeLimit": f"the partition does not give so many nodes; {ADVICE['node count']}",
    "PartitionTimeLimit": f"the partition does not give so much time; {ADVICE['time limit']}",
    "PartitionConfig": "the partition has no such nodes, or not as many; `sinfo -o '%P %D %c %m %G'` lists "
    "how many it has, their cores, MB and GPUs",
    "BadConstraints": f"no nodes have that; {ADVICE['node configuration']}",
    "InvalidAccount": ADVICE["account"],
    "InvalidQOS": ADVICE["qos"],
}


def refusal(stderr: str, partitions: Sequence[str]) -> str:
    """Return one line about a submission that sbatch refused: its own words, and what to do."""
    words = own_words(stderr)
    advice = next((advice for word, advice in ADVICE.items() if word in words.lower()), None)
    if advice == ADVICE["partition"] and partitions:
        advice = f"take one of {', '.join(partitions)} with --partition"
    return f"sbatch: {words or 'no reason given'}; {advice or 'nothing was submitted, correct the request'}"
