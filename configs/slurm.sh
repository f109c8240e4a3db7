#!/usr/bin/env bash
# sbatch configs/slurm.sh reward recipes/paper-8b.toml
# Run the stages before training once, in one process: psychocounsel run RECIPE --to pairs
#SBATCH --job-name=psychocounsel
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue            # the same command goes on from the last checkpoint
set -euo pipefail
stage=${1:?the stage: supervised, reward or policy}
recipe=${2:?a recipe}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c 'accelerate launch --config_file configs/fsdp2.yaml \
  --num_machines "$SLURM_JOB_NUM_NODES" --num_processes $((SLURM_JOB_NUM_NODES * SLURM_GPUS_ON_NODE)) \
  --machine_rank "$SLURM_NODEID" --main_process_ip "$0" --main_process_port 29500 \
  -m psychocounsel.cli "$1" "$2"' "$head" "$stage" "$recipe"
