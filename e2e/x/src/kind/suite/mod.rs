//! Tests in one cluster, in their order: later ones use what earlier ones have made.

mod load;
mod restarts;
mod workloads;

use std::time::Instant;

use anyhow::Result;

use super::{Cluster, Docker, export_logs, images::Workloads};
use crate::{summary::Counts, work::Work};

/// The things that a test works with.
pub struct Scene<'a> {
    work: &'a Work,
    docker: &'a mut Docker,
    images: &'a Workloads,
}

impl Scene<'_> {
    fn cluster(&self) -> Cluster<'_> {
        Cluster::new(self.work, self.docker, "holdfast")
    }
}

struct Test {
    name: &'static str,
    run: fn(&mut Scene<'_>) -> Result<()>,
    /// Made for the others, whatever the filter says.
    is_setup: bool,
}

const fn test(name: &'static str, run: fn(&mut Scene<'_>) -> Result<()>) -> Test {
    Test { name, run, is_setup: false }
}

const TESTS: &[Test] = &[
    test("load::an_archive_with_blobs_of_other_platforms_left_out", load::without_other_platforms),
    Test { is_setup: true, ..test("load::image_archives_and_images_of_docker", load::archives_and_docker) },
    test("load::what_kind_does_not_call_is_refused", load::refusals),
    Test { is_setup: true, ..test("workloads::all_become_ready", workloads::all_become_ready) },
    test("workloads::names_are_resolved", workloads::names),
    test("workloads::a_service_is_reached_from_every_node", workloads::service),
    test("workloads::node_port_and_ingress_by_host_port", workloads::from_outside),
    test("workloads::a_job_and_its_logs", workloads::job),
    test("workloads::a_stateful_set_keeps_its_volume", workloads::stateful_set),
    test("workloads::exec_logs_cp_and_port_forward", workloads::sessions),
    test("workloads::a_rolling_update", workloads::rolling_update),
    test("restarts::the_agent", restarts::agent),
    test("restarts::the_container_of_a_node", restarts::node),
    test("restarts::docker", restarts::docker),
    test("restarts::logs_are_exported", restarts::logs),
    test("restarts::a_node_waits_for_its_network_add_on", restarts::network_add_on),
    test("restarts::delete_leaves_nothing", restarts::delete),
];

/// Runs them; the one that fails first is the last.
pub fn run(work: &Work, docker: &mut Docker, images: &Workloads, filter: Option<&str>) -> Counts {
    let mut scene = Scene { work, docker, images };
    let mut counts = Counts::default();
    for test in TESTS {
        if !test.is_setup && filter.is_some_and(|filter| !test.name.contains(filter)) {
            continue;
        }
        let begun = Instant::now();
        let done = (test.run)(&mut scene);
        let seconds = begun.elapsed().as_secs_f32();
        match done {
            Ok(()) => {
                println!("test {} ... ok ({seconds:.1} s)", test.name);
                counts.passed += 1;
            }
            Err(error) => {
                println!("test {} ... FAILED ({seconds:.1} s)\n    {error:#}", test.name);
                counts.failed += 1;
                export_logs(work, &scene.cluster());
                // What comes later would fail for the same reason.
                break;
            }
        }
    }
    counts
}
