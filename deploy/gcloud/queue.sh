#!/usr/bin/env bash
# The topics and subscriptions of the worker pool, with dead letters. Safe to repeat.
set -euo pipefail

PROJECT=${PROJECT:?set PROJECT}
NAME=${NAME:-sts-pool}
CONTROL_BUCKET=${CONTROL_BUCKET:?set CONTROL_BUCKET: the daemon posts pauses there, workers read them}
WORKERS=${WORKERS:-cdn-worker@${PROJECT}.iam.gserviceaccount.com}
MANAGER=${MANAGER:-sts-manager@${PROJECT}.iam.gserviceaccount.com}
QUEUE="pubsub://${PROJECT}/${NAME}?board=gs://${CONTROL_BUCKET}/board.json"

# Topics NAME-lists, NAME-copies, NAME-huge, NAME-reports, NAME-dead, a subscription each; ten deliveries, then the dead letters.
cdn-worker prepare-queue --queue "${QUEUE}" --lease 60

# Pub/Sub itself moves what was delivered too often: its service agent publishes to the dead letters and acknowledges.
NUMBER=$(gcloud projects describe "${PROJECT}" --format='value(projectNumber)')
AGENT="serviceAccount:service-${NUMBER}@gcp-sa-pubsub.iam.gserviceaccount.com"
gcloud pubsub topics add-iam-policy-binding "${NAME}-dead" --project="${PROJECT}" --member="${AGENT}" --role=roles/pubsub.publisher
for which in lists copies huge reports; do
  gcloud pubsub subscriptions add-iam-policy-binding "${NAME}-${which}" --project="${PROJECT}" --member="${AGENT}" --role=roles/pubsub.subscriber
done

# Both sides publish and pull; they look at the subscriptions when they start.
for member in "serviceAccount:${WORKERS}" "serviceAccount:${MANAGER}"; do
  for which in lists copies huge reports dead; do
    gcloud pubsub topics add-iam-policy-binding "${NAME}-${which}" --project="${PROJECT}" --member="${member}" --role=roles/pubsub.publisher
    gcloud pubsub subscriptions add-iam-policy-binding "${NAME}-${which}" --project="${PROJECT}" --member="${member}" --role=roles/pubsub.subscriber
    gcloud pubsub subscriptions add-iam-policy-binding "${NAME}-${which}" --project="${PROJECT}" --member="${member}" --role=roles/pubsub.viewer
  done
done
gcloud storage buckets add-iam-policy-binding "gs://${CONTROL_BUCKET}" --member="serviceAccount:${MANAGER}" --role=roles/storage.objectUser
gcloud storage buckets add-iam-policy-binding "gs://${CONTROL_BUCKET}" --member="serviceAccount:${WORKERS}" --role=roles/storage.objectViewer

echo "queue: ${QUEUE}"
