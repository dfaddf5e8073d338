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
    "A configuration file has sections of lines KEY=VALUE or KEY: VALUE. Where a line\n\
     has a '=' it is split there. Keys are case-insensitive, lines that begin with #\n\
     or ; are comments, indented lines go on with the value before, '%' is written\n\
     '%%'. A repeated key is an error; unknown ones are told and ignored.\n\n\
     [options]                 may be left out\n\
     \x20 pre_resolve_workers=1   1 or true: names of workers are looked up once, at the\n\
     \x20                         start, and a worker without an address is left out.\n\
     \x20                         0 or false: they are looked up again every 30 s, and a\n\
     \x20                         worker without an address counts as a failed one\n\
     \x20 buffer_size=4096        bytes of a buffer, 1024 to 65536, before it grows with\n\
     \x20                         the traffic\n\
     \x20 strict_start=0          1 or true: a port that cannot be listened on is an\n\
     \x20                         error. 0 or false: it is tried again every 5 s, which\n\
     \x20                         is told, while the others run\n\n\
     [mappings]                one line for each port to listen on\n\
     \x20 PORT=HOST:PORT,HOST:PORT,...         on all IPv4 addresses\n\
     \x20 ADDR:PORT=HOST:PORT,HOST:PORT,...    on this one; [ADDR]:PORT if it is IPv6\n\n\
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
