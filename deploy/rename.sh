#!/bin/sh
# Gives the Go module, and the image where one is named, an address of its own:
#   deploy/rename.sh git.example.com/net/ifacebridge registry.example.com/net/ifacebridge
#
# It changes the module's name and every import of it (go.mod of all modules here, Go
# code, also that in guides), and the image's name in the manifests and the commands of
# the guides. It may run again, with another address.
set -eu
usage='usage: deploy/rename.sh MODULE [IMAGE], such as git.example.com/net/ifacebridge registry.example.com/net/ifacebridge'
new=${1:?$usage}
cd "$(dirname "$0")/.."
old=$(go mod edit -json | sed -n '/"Module"/,/}/s/.*"Path": "\(.*\)".*/\1/p')
old_image=$(sed -n 's/^ *image: //p' deploy/kubernetes/base/daemonset.yaml)
new_image=${2:-$old_image}

fail() {
  echo "deploy/rename.sh: $*" >&2
  exit 2
}
echo "$new" | grep -Eqx '[A-Za-z0-9][A-Za-z0-9._~-]*(/[A-Za-z0-9._~-]+)*' ||
  fail "MODULE: not the path of a Go module (got $new); accepted: such as git.example.com/net/ifacebridge"
echo "$new_image" | grep -Eqx '[a-z0-9]([a-z0-9.-]*(:[0-9]+)?/)?[a-z0-9._/-]*' ||
  fail "IMAGE: not the name of an image without a tag (got $new_image); accepted: such as registry.example.com/net/ifacebridge"

pattern() { # in a regular expression a dot is anything
  echo "$1" | sed 's/[.]/[.]/g'
}
module=$(pattern "$old")
image=$(pattern "$old_image")
files() { # files NAME…: those of a checkout, not what was made in it
  for name; do
    find . \( -name '.?*' -o -name dist \) -prune -o -type f -name "$name" -exec grep -lF -e "$old" -e "$old_image" {} +
  done
}

files go.mod | xargs -r sed -i -E \
  -e "s|^module $module(/.*)?\$|module $new\\1|" \
  -e "s|^(\t\|require )$module v|\\1$new v|" \
  -e "s|^replace $module => |replace $new => |"
files '*.go' '*.md' | xargs -r sed -i -E \
  -e "s|\"$module/|\"$new/|g" \
  -e "s#^(go mod edit -replace=|go get )$module(=|/)#\\1$new\\2#" \
  -e "/^go get /s| $module/| $new/|g"
files '*.yaml' '*.yml' '*.md' | xargs -r sed -i -E \
  -e "s|^( *image: )$image\$|\\1$new_image|" \
  -e "s|^( *image: \\$\\{IFACEBRIDGE_IMAGE:-)$image\\}|\\1$new_image}|" \
  -e "/^images:/,/newTag:/s|(- name: )$image\$|\\1$new_image|"
files '*.go' '*.md' | xargs -r sed -i -E \
  -e "s#docker build -t $image( |\\.)#docker build -t $new_image\\1#" \
  -e "s|^(docker run .*) $image\$|\\1 $new_image|"
gofmt -w bridge cmd fleet netlinksrc schema test
echo "module $old is $new, image $old_image is $new_image; README.md has still to be told how to get it"
