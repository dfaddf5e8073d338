//! Texts for `--help`, `--help-config` and `--version`.

/// The usage line.
pub fn usage(program: &str) -> String {
    format!("Usage: {program} CONFIG, or {program} --help | --help-config | --version")
}

pub fn help(program: &str) -> String {
    format!(
        "Usage: {program} CONFIG\n\n\
         Each port of the configuration file CONFIG has workers, which take turns in\n\
         serving its clients. Always in the foreground; information is on standard\n\
         output, warnings and errors on standard error.\n\n\
         \x20 --thread_pairs N CONFIG\n\
         \x20                 at most N clients of a port at once have a pair of threads\n\
         \x20                 of their own; the others share threads. Wins over the file\n\
         \x20 --help          this\n\
         \x20 --help-config   what is in the configuration file\n\
         \x20 --version       the version\n\n\
         A worker that does not take a client within 5 s fails: the client is given\n\
         another one at random, and the worker is passed over for 5 s where there is\n\
         another. A client that all have refused is offered to them again every 50 ms,\n\
         while it is there, for half a minute.\n\n\
         SIGTERM, SIGINT, SIGQUIT and SIGHUP: nobody new is accepted, clients may finish\n\
         within 6 s; a second one cuts them. Exit status: 0 stopped by a signal, 1 it\n\
         could not start or go on.\n"
    )
}

pub fn help_config() -> String {
    "A configuration file has sections of lines KEY=VALUE or KEY: VALUE. A line with\n\
     a '=' is split there. Keys are case-insensitive, lines that begin with # or ;\n\
     are comments, indented lines continue the previous value, '%' is written '%%'.\n\
     A repeated key is an error; an unknown key causes a warning and is ignored.\n\n\
     [options]                 may be left out\n\
     \x20 pre_resolve_workers=1   1 or true: names of workers are looked up once, at the\n\
     \x20                         start, and a worker without an address is left out.\n\
     \x20                         0 or false: they are looked up again every 30 s, and a\n\
     \x20                         worker without an address counts as a failed one\n\
     \x20 buffer_size=4096        bytes of a buffer, 1024 to 65536, before it grows with\n\
     \x20                         the traffic\n\
     \x20 strict_start=0          1 or true: a port that cannot be listened on is an\n\
     \x20                         error. 0 or false: it is tried again every 5 s, which\n\
     \x20                         is told, while the others run\n\
     \x20 thread_pairs=256        clients of a port that have a pair of threads of their\n\
     \x20                         own at once, 0 to 65536; the others share threads\n\n\
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
