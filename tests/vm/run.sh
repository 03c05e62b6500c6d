#!/bin/sh
# What runs in the machine of boot.py: the Rust tests of groups and starts, whose binaries are the arguments,
# then the Python tests that are marked to run again on cgroup v2, and those that need its project quotas.
ulimit -n 65536
failed=0
for binary; do
    case $binary in
        */proa_native-*) only=v2_ ;;
        *) only= ;;
    esac
    (cd native && "$binary" --quiet $only) || failed=1
done
python -m pytest -p no:cacheprovider tests/root -m "cgroup or start or quota" --timeout 600 --durations 5 || failed=1
exit $failed
