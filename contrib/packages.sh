# Debian packages. To be sourced by the scripts that need some.

missing_packages() { # PACKAGE...: prints those that are not installed
    local package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s\n' "$package"
    done
}

install_packages() { # PACKAGE...: as root; says nothing unless it fails
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
