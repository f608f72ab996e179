#!/bin/sh
# Installs edgetpu_compiler from Google's apt repository. For x86-64 Debian and Ubuntu (a desktop, WSL, Colab, Docker), as root.
# The compiler is Google's, under the terms that its package carries; it is no part of this project.
set -eu
key=/usr/share/keyrings/coral-edgetpu.gpg
site=https://packages.cloud.google.com/apt
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates curl gpg
curl -fsSL $site/doc/apt-key.gpg | gpg --dearmor --yes --output $key
echo "deb [arch=amd64 signed-by=$key] $site coral-edgetpu-stable main" >/etc/apt/sources.list.d/coral-edgetpu.list
apt-get update
apt-get install --yes --no-install-recommends edgetpu-compiler
