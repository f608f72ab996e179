#!/usr/bin/env bash
# Install Omokage on a Raspberry Pi (or any Linux with systemd) as a service that starts with the machine:
#
#   sudo device/install.sh --camera 0
#   device/install.sh --dry-run               # print what it would do, and do nothing
#   sudo device/install.sh --uninstall        # everything but the settings and the gallery
#
# Run it from a clone; run it again after `git pull` to update. The settings and the gallery are kept. docs/raspberry-pi.md.
#
#   --camera N | --source URL   what the service watches (default: --camera 0)
#   --prefix DIR    where the program goes (default: /opt/omokage)
#   --state DIR     where the gallery lives (default: /var/lib/omokage)
#   --user NAME     whom the service runs as; made where it is missing (default: omokage)
#   --etc DIR       where settings, unit and udev rule go (default: /etc). Elsewhere nothing is started and no user is made
#   --python FILE   the Python to build on (default: python3)
set -euo pipefail
umask 022 # the service's user must be able to read what root installs

prefix=/opt/omokage state=/var/lib/omokage user=omokage etc=/etc python=python3 watch='--camera 0' dry='' verb=set_up
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { # fail STATUS WHAT: HOW TO MEND IT
    echo "install: $2" >&2
    exit "$1"
}

main() {
    parse "$@"
    for path in "$prefix" "$state" "$etc"; do
        [[ $path =~ ^/[A-Za-z0-9._/-]+$ ]] || fail 2 "$path is no plain absolute path: use letters, digits and ._- in it"
        [[ $path/ != /home/* && $path/ != /root/* ]] || fail 2 "the service sees nothing in $path: choose a folder outside of people's homes"
    done
    [[ $user =~ ^[a-z_][a-z0-9_-]*$ ]] || fail 2 "$user is no name for a user: use small letters and digits"
    [[ $etc != /etc || -n $dry || $(id -u) == 0 ]] || fail 2 "this writes to $etc: run it with sudo, or look first with --dry-run"
    "$verb"
}

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
        --dry-run) dry=yes && shift && continue ;;
        --uninstall) verb=uninstall && shift && continue ;;
        --camera | --source | --prefix | --state | --user | --etc | --python) ;;
        *) fail 2 "there is no option $1: see device/install.sh --help" ;;
        esac
        [ $# -gt 1 ] || fail 2 "$1 wants a value: see device/install.sh --help"
        case $1 in
        --camera) [[ $2 =~ ^[0-9]+$ ]] || fail 2 "there is no camera $2: cameras are counted from 0" ;;&
        --source) [[ $2 != *[[:space:]\']* ]] || fail 2 "the source $2 has a space or a quote in it: write %20 or %27" ;;&
        --camera | --source) watch="$1 $2" ;;
        *) printf -v "${1#--}" %s "$2" ;;
        esac
        shift 2
    done
}

set_up() {
    check_python
    copy_program
    build_environment
    make_user
    run mkdir -p "$etc/udev/rules.d" "$etc/systemd/system"
    rules | put 644 "$etc/udev/rules.d/99-omokage.rules"
    if [ -e "$etc/omokage.conf" ]; then
        echo "kept: $etc/omokage.conf"
    else
        settings | put 640 "$etc/omokage.conf"
        as_root chgrp "$user" "$etc/omokage.conf"
    fi
    launcher | put 755 "$prefix/bin/omokage"
    sed "s|@PREFIX@|$prefix|g; s|@STATE@|$state|g; s|@ETC@|$etc|g; s|@USER@|$user|g" "$clone/device/omokage.service" |
        put 644 "$etc/systemd/system/omokage.service"
    start
    [ -z "$dry" ] || echo "nothing was done (--dry-run)"
}

check_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10) or sys.maxsize < 2**32)' ||
        fail 3 "$python is not there, is older than 3.10 or 32-bit: install Raspberry Pi OS (64-bit), Bookworm or newer"
    "$python" -c 'import ensurepip, venv' 2> /dev/null || fail 3 "$python cannot make environments: sudo apt install python3-venv"
    [[ $etc != /etc || $("$python" -c 'import sys; print(sys.base_prefix)') != @(/home|/root)/* ]] ||
        fail 3 "$python is in somebody's home, where the service cannot see it: name another with --python, such as /usr/bin/python3"
}

copy_program() {
    run rm -rf "$prefix/app.new" "$prefix/app.old"
    run mkdir -p "$prefix/app.new" "$prefix/bin"
    run cp -r "$clone"/{device,models,pyproject.toml,README.md,LICENSE} "$prefix/app.new"
    [ ! -e "$prefix/app" ] || run mv "$prefix/app" "$prefix/app.old"
    run mv "$prefix/app.new" "$prefix/app"
}

build_environment() {
    local version='import sys; print(sys.version_info[:2])' camera=false options=(--clear) requirements=(-r device/requirements.txt)
    # The Pi's camera stack comes from apt only, compiled for apt's numpy: let the environment see it, and stay with that numpy.
    if "$python" -c 'import picamera2' 2> /dev/null; then
        camera=true
        options+=(--system-site-packages)
        requirements+=("numpy<$("$python" -c 'import numpy; print(int(numpy.__version__.split(".")[0]) + 1)')")
    fi
    if [ "$("$prefix/venv/bin/python" -c "$version" 2> /dev/null)" != "$("$python" -c "$version")" ] ||
        ! grep --quiet "include-system-site-packages = $camera" "$prefix/venv/pyvenv.cfg"; then
        run "$python" -m venv "${options[@]}" "$prefix/venv"
    fi
    if ! (run cd "$prefix/app" && run "$prefix/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${requirements[@]}"); then
        [ ! -e "$prefix/app.old" ] || { rm -rf "$prefix/app" && mv "$prefix/app.old" "$prefix/app"; }
        fail 3 "the packages cannot be installed: check the network and the free space, and run this again"
    fi
    run "$prefix/venv/bin/python" -m compileall -q "$prefix/app/device"
    run rm -rf "$prefix/app.old"
}

make_user() {
    for group in video plugdev; do # cameras; the Coral
        getent group "$group" > /dev/null || as_root groupadd --system "$group"
    done
    id "$user" > /dev/null 2>&1 || as_root useradd --system --home-dir "$state" --shell /usr/sbin/nologin "$user"
    as_root usermod --append --groups video,plugdev "$user"
    run mkdir -p "$state"
    run chmod 700 "$state"
    as_root chown "$user:" "$state"
}

rules() {
    cat << END
# Omokage: the Coral USB Accelerator, before and after its firmware is loaded, and the Coral on PCIe, for the group plugdev.
SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="1a6e", ATTR{idProduct}=="089a", GROUP="plugdev", MODE="0660"
SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="18d1", ATTR{idProduct}=="9302", GROUP="plugdev", MODE="0660"
SUBSYSTEM=="apex", GROUP="plugdev", MODE="0660"
END
}

settings() {
    cat << END
# Omokage's service: read when it starts (sudo systemctl restart omokage) and by $prefix/bin/omokage.
# What it watches, and how: the options of recognize.py.
OMOKAGE_ARGS='$watch --json'
# Who is known.
OMOKAGE_GALLERY='$state/gallery.db'
# The YuNet detector, about three times faster than the one that is built in: its ONNX file.
#OMOKAGE_YUNET='$state/yunet.onnx'
END
}

launcher() {
    cat << END
#!/bin/sh
# Omokage's programs with the service's settings: sudo -u $user $prefix/bin/omokage enroll|doctor|recognize ...
set -eu
program=\${1:?name a program: enroll, doctor or recognize}
shift
set -a
. $etc/omokage.conf
set +a
exec $prefix/venv/bin/python "$prefix/app/device/\$program.py" "\$@"
END
}

start() {
    if has_systemd; then
        run udevadm control --reload
        run udevadm trigger --subsystem-match=usb --subsystem-match=apex
        run systemctl daemon-reload
        run systemctl stop omokage # it would hold the camera and the Coral, which the doctor looks at
    fi
    if [ "$etc" = /etc ]; then
        run runuser -u "$user" -- "$prefix/bin/omokage" doctor || true
    else
        run "$prefix/bin/omokage" doctor || true
    fi
    if has_systemd; then
        run systemctl enable omokage
        run systemctl restart --no-block omokage
        echo "installed and started: journalctl --unit omokage --output cat --follow"
    else
        echo "installed in $prefix, and not started: systemd does not run here, or reads its units elsewhere than in $etc"
    fi
}

uninstall() {
    ! has_systemd || run systemctl disable --now omokage || true
    run rm -rf "$etc/systemd/system/omokage.service" "$etc/udev/rules.d/99-omokage.rules" "$prefix"
    ! has_systemd || run systemctl daemon-reload
    echo "kept: $etc/omokage.conf and $state with everybody's embeddings; delete them if nobody needs them"
}

run() { # do it, or with --dry-run say it
    if [ -n "$dry" ]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

has_systemd() { # it runs, and reads its units where they are put
    [[ $etc == /etc && (-n $dry || -d /run/systemd/system) ]]
}

as_root() { # what only makes sense on the real system
    [ "$etc" != /etc ] || run "$@"
}

put() { # put MODE FILE: write what comes in, whole or not at all
    if [ -n "$dry" ]; then
        echo "write $2, mode $1:" && sed 's/^/    /'
    else
        cat > "$2.new" && chmod "$1" "$2.new" && mv "$2.new" "$2"
    fi
}

main "$@"
