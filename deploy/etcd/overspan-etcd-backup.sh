#!/bin/sh
# Saves a snapshot of etcd below DIRECTORY, by the day, and deletes those older than
# 30 days; etcdctl renames it when it is whole. What etcdctl wants to know is in its variables,
# ETCDCTL_CACERT and others; of the members ETCDCTL_ENDPOINTS names one alone, for a
# snapshot is of one.
#
# usage: overspan-etcd-backup.sh DIRECTORY
set -eu

dir=${1:?usage: overspan-etcd-backup.sh DIRECTORY}
umask 077
mkdir -p "$dir"
etcdctl snapshot save "$dir/overspan-$(date -u +%F).db"
find "$dir" -maxdepth 1 -name 'overspan-*.db' -mtime +30 -delete
