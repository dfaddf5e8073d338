//! Texts for `--help`, `--help-config` and `--version`.

/// The usage line.
pub fn usage(program: &str) -> String {
    format!("Usage: {program} CONFIG, or {program} --help | --help-config | --version")
}

pub fn help(program: &str) -> String {
    format!(
        "Usage: {program} CONFIG\n\n\
         Each port of the configuration file CONFIG has workers, which serve its\n\
         clients in turn. Runs in the foreground; information goes to standard output,\n\
         warnings and errors to standard error.\n\n\
         \x20 --help          show this text\n\
         \x20 --help-config   describe the configuration file\n\
         \x20 --version       show the version\n\n\
         A worker that does not accept a connection within 5 s has failed: the client\n\
         gets another one at random, and for 5 s the worker is used only if no other is\n\
         available. A client that all workers refused is offered to them again every\n\
         50 ms for 30 s, as long as it stays connected.\n\n\
         After SIGTERM, SIGINT, SIGQUIT or SIGHUP it accepts no more clients; those\n\
         connected have 6 s to finish; a second signal resets them. Exit status:\n\
         0 stopped by a signal, 1 could not start or continue.\n"
    )
}

pub fn help_config() -> String {
    "A configuration file has sections of lines KEY=VALUE or KEY: VALUE. A line with\n\
     a '=' is split there. Keys are case-insensitive, lines that begin with # or ;\n\
     are comments, indented lines continue the previous value, '%' is written '%%'.\n\
     A repeated key is an error; an unknown key causes a warning and is ignored.\n\n\
     [options]                 may be left out\n\
     \x20 pre_resolve_workers=1   1 or true: look up names of workers once, at the\n\
     \x20                         start, and ignore workers without an address.\n\
     \x20                         0 or false: look them up every 30 s; a worker without\n\
     \x20                         an address counts as failed\n\
     \x20 buffer_size=4096        initial size of a relay buffer in bytes, 1024 to\n\
     \x20                         65536; it grows with the traffic\n\
     \x20 strict_start=0          1 or true: a port that cannot be bound is an error.\n\
     \x20                         0 or false: log it, serve the other ports, and try\n\
     \x20                         again every 5 s\n\n\
     [mappings]                one line for each port to listen on\n\
     \x20 PORT=HOST:PORT,HOST:PORT,...         on all IPv4 addresses\n\
     \x20 ADDR:PORT=HOST:PORT,HOST:PORT,...    on this address; IPv6: [ADDR]:PORT\n\n\
     Example:\n\n\
     \x20 [options]\n\
     \x20 buffer_size=4096\n\n\
     \x20 [mappings]\n\
     \x20 80=10.0.0.11:8080,10.0.0.12:8080\n\
     \x20 127.0.0.1:5432=db.example:5432\n"
        .to_owned()
}

pub fn version() -> String {
    format!("PumpkinLB Version 2.0.0 ({} {})\n", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}
