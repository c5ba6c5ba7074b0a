//! Timers and retries of executions.

use serde_json::json;

use super::*;
use crate::model::topic::JobsTopic;

fn queue(minutes: Option<u32>, retries: u32) -> Queue {
    let mut queue = Queue::default();
    let given = Given { job_id: "a".into(), document: json!({}), minutes, retries };
    assert!(queue.give(given, Millis(0)));
    queue
}

fn update(queue: &mut Queue, request: Json, now: i64) -> Result<Json, Rejected> {
    queue.request(&JobsTopic::Update("a".into()), request.to_string().as_bytes(), Millis(now))
}

#[test]
fn the_earlier_of_both_timers_ends_an_execution() {
    let mut queue = queue(Some(10), 0);
    assert_eq!(queue.next_end(), None, "nothing runs before it has begun");
    update(&mut queue, json!({"status": "IN_PROGRESS", "stepTimeoutInMinutes": 2}), 1000).expect("begun");
    assert_eq!(queue.next_end(), Some(Millis(1000 + 2 * MINUTE)));
    update(&mut queue, json!({"status": "IN_PROGRESS", "stepTimeoutInMinutes": 60}), 2000).expect("goes on");
    assert_eq!(queue.next_end(), Some(Millis(1000 + 10 * MINUTE)), "the other one is not moved by progress");
    update(&mut queue, json!({"status": "IN_PROGRESS", "stepTimeoutInMinutes": -1}), 2000).expect("goes on");
    queue.expire(Millis(1000 + 10 * MINUTE - 1));
    assert_eq!(queue.executions[0].status, Status::InProgress);
    queue.expire(Millis(1000 + 10 * MINUTE));
    assert_eq!((queue.executions[0].status, queue.next_end()), (Status::TimedOut, None));
    let late = update(&mut queue, json!({"status": "SUCCEEDED"}), 1000 + 11 * MINUTE).expect_err("too late");
    assert_eq!(late.code, "InvalidStateTransition");
}

#[test]
fn a_time_out_is_tried_again_as_often_as_was_given() {
    let mut queue = queue(Some(1), 2);
    let mut now = 0;
    for number in 1..=3 {
        assert_eq!((queue.executions[0].execution_number, queue.executions[0].status), (number, Status::Queued));
        assert_eq!(queue.executions[0].version_number, 1);
        update(&mut queue, json!({"status": "IN_PROGRESS"}), now).expect("begun");
        now += MINUTE;
        queue.expire(Millis(now));
    }
    assert_eq!((queue.executions[0].status, queue.ended.len()), (Status::TimedOut, 3));
    queue.forget(Millis(now));
    assert!(queue.executions.is_empty());
}

#[test]
fn what_cannot_be_a_job_is_said() {
    let good = Given { job_id: "a".into(), document: json!({}), minutes: None, retries: 0 };
    assert_eq!(good.check(), Ok(()));
    assert!(Given { job_id: "a.b".into(), ..good.clone() }.check().is_err());
    assert!(Given { document: json!([]), ..good.clone() }.check().is_err());
    assert!(Given { minutes: Some(0), ..good.clone() }.check().is_err());
    assert_eq!(Given { retries: 11, ..good }.check(), Err(BadJob::Retries(11)));
}

#[test]
fn a_list_has_ten_entries_whatever_their_states_and_what_is_in_progress_comes_first() {
    let mut queue = Queue::default();
    for n in 0..14 {
        let given = Given { job_id: format!("j{n}"), document: json!({}), minutes: None, retries: 0 };
        assert!(queue.give(given, Millis(n)));
    }
    let begun = json!({"status": "IN_PROGRESS"}).to_string();
    queue.request(&JobsTopic::Update("j12".into()), begun.as_bytes(), Millis(20)).expect("begun");
    let listed = queue.request(&JobsTopic::Get, b"{}", Millis(21)).expect("listed");
    let told = notify(&queue, Millis(21))["jobs"].clone();
    let names = |list: &Json| -> Vec<String> {
        let list = list.as_array().expect("a list");
        list.iter().map(|one| one["jobId"].as_str().expect("an id").to_owned()).collect()
    };
    let queued: Vec<String> = (0..9).map(|n| format!("j{n}")).collect();
    for (in_progress, waiting) in
        [(&listed["inProgressJobs"], &listed["queuedJobs"]), (&told["IN_PROGRESS"], &told["QUEUED"])]
    {
        assert_eq!(names(in_progress), ["j12"]);
        assert_eq!(names(waiting), queued);
    }
}
