#!/usr/bin/env bash
# Workers as a managed instance group of Spot VMs that grows with the backlog of copy tasks. Needs gcloud/queue.sh first.
# Safe to repeat: what is there already is left as it is.
set -euo pipefail

PROJECT=${PROJECT:?set PROJECT}
REGION=${REGION:-us-central1}
NAME=${NAME:-sts-pool}
NETWORK=${NETWORK:-default}
MACHINE=${MACHINE:-c3-highcpu-8}
MOST=${MOST:-20}
WORKERS=${WORKERS:-cdn-worker@${PROJECT}.iam.gserviceaccount.com}
HERE=$(cd "$(dirname "$0")" && pwd)

exists() { gcloud compute "$@" --project="${PROJECT}" >/dev/null 2>&1; }

exists instance-templates describe "${NAME}-workers" ||
  gcloud compute instance-templates create "${NAME}-workers" --project="${PROJECT}" --machine-type="${MACHINE}" \
    --provisioning-model=SPOT --instance-termination-action=DELETE --network-performance-configs=total-egress-bandwidth-tier=DEFAULT \
    --image-family=cos-stable --image-project=cos-cloud --shielded-secure-boot \
    --network="${NETWORK}" --tags="${NAME}-workers" \
    --service-account="${WORKERS}" --scopes=cloud-platform \
    --metadata=shutdown-script='systemctl stop cdn-worker.service' \
    --metadata-from-file=user-data="${HERE}/cloud-init.yaml"

# Google's probers come from these two ranges (Compute Engine, autohealing), and a VPC lets nobody in by itself. Without this rule every
# worker counts as dead 180 s + 4 x 30 s after its start and is made anew, for ever.
exists firewall-rules describe "${NAME}-healthz" ||
  gcloud compute firewall-rules create "${NAME}-healthz" --project="${PROJECT}" --network="${NETWORK}" --direction=INGRESS --action=ALLOW \
    --rules=tcp:8080 --source-ranges=35.191.0.0/16,130.211.0.0/22 --target-tags="${NAME}-workers"

exists health-checks describe "${NAME}-healthz" ||
  gcloud compute health-checks create http "${NAME}-healthz" --project="${PROJECT}" --port=8080 --request-path=/healthz \
    --check-interval=30s --unhealthy-threshold=4

exists instance-groups managed describe "${NAME}-workers" --region="${REGION}" ||
  gcloud compute instance-groups managed create "${NAME}-workers" --project="${PROJECT}" --region="${REGION}" \
    --template="${NAME}-workers" --size=1 --health-check="${NAME}-healthz" --initial-delay=180

# One machine for each 2,000 tasks (100,000 objects) that wait, and more while they are busy: huge objects wait in a queue of their own.
# It never goes to 0: an empty queue is not the end of a migration.
gcloud compute instance-groups managed set-autoscaling "${NAME}-workers" --project="${PROJECT}" --region="${REGION}" \
  --min-num-replicas=1 --max-num-replicas="${MOST}" --cool-down-period=120 \
  --scale-based-on-cpu --target-cpu-utilization=0.6 \
  --update-stackdriver-metric=pubsub.googleapis.com/subscription/num_undelivered_messages \
  --stackdriver-metric-filter="resource.type = pubsub_subscription AND resource.labels.subscription_id = \"${NAME}-copies\"" \
  --stackdriver-metric-single-instance-assignment=2000
