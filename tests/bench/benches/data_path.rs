//! Nanoseconds a packet.

use std::time::Duration;

use bench::{Workbench, cases};
use criterion::Criterion;

fn data_path(criterion: &mut Criterion) {
    for case in cases() {
        let mut bench = Workbench::new(case);
        criterion.bench_function(&case.name(), |bencher| {
            bencher.iter_custom(|packets| {
                let (mut arrived, mut spent) = (0, Duration::ZERO);
                while arrived < packets {
                    let (more, time) = bench.round();
                    arrived += more as u64;
                    spent += time;
                }
                spent.mul_f64(packets as f64 / arrived as f64)
            });
        });
    }
}

fn main() {
    let criterion = Criterion::default().sample_size(20);
    let criterion = criterion.warm_up_time(Duration::from_millis(300));
    let mut criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
    data_path(&mut criterion);
    criterion.final_summary();
}
