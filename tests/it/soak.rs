//! The soak of `contrib/bench/soak`, for some seconds.

#[path = "../../contrib/bench/soak_load/mod.rs"]
mod soak_load;
#[path = "../../contrib/bench/subject.rs"]
mod subject;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use self::soak_load::Plan;
use crate::proxy::CBPX;
use crate::vitals::process as vitals;

#[test]
fn clients_of_all_kinds_and_switches_all_the_time_harm_nobody_and_leave_nothing() {
    let plan = Plan {
        length: Duration::from_secs(20),
        pause: Duration::from_secs(1),
        interval: Duration::from_secs(1),
        crews: 1,
        seed: 1,
    };
    let wrong = soak_load::run(Path::new(CBPX), plan, &AtomicBool::new(false), &mut |line| println!("{line}"));
    assert_eq!(wrong.unwrap(), Vec::<String>::new());
}
