#!/usr/bin/env bash
# Workers as a managed instance group of Spot VMs that grows with the backlog of copy tasks. Needs gcloud/queue.sh first.
set -euo pipefail

PROJECT=${PROJECT:?set PROJECT}
REGION=${REGION:-us-central1}
NAME=${NAME:-sts-pool}
MACHINE=${MACHINE:-c3-highcpu-8}
MOST=${MOST:-20}
WORKERS=${WORKERS:-cdn-worker@${PROJECT}.iam.gserviceaccount.com}
HERE=$(cd "$(dirname "$0")" && pwd)

gcloud compute instance-templates create "${NAME}-workers" --project="${PROJECT}" --machine-type="${MACHINE}" \
  --provisioning-model=SPOT --instance-termination-action=DELETE --network-performance-configs=total-egress-bandwidth-tier=DEFAULT \
  --image-family=cos-stable --image-project=cos-cloud --shielded-secure-boot \
  --service-account="${WORKERS}" --scopes=cloud-platform \
  --metadata=shutdown-script='systemctl stop cdn-worker.service' \
  --metadata-from-file=user-data="${HERE}/cloud-init.yaml"

gcloud compute health-checks create http "${NAME}-healthz" --project="${PROJECT}" --port=8080 --request-path=/healthz --check-interval=30s --unhealthy-threshold=4

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
