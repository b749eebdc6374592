import { HttpErrorResponse } from '@angular/common/http';
import { asksAgain, retryAfter } from 'flask-idempotency';

/** Whether a failure asks to be tried again, and after how many milliseconds at the least. */
export interface Verdict {
  readonly again: boolean;
  readonly asked: number;
}

export function judge(error: unknown): Verdict {
  // What is not an answer is some interceptor's own error, which no repeat mends.
  if (!(error instanceof HttpErrorResponse)) return { again: false, asked: 0 };
  // The network's: no connection, a time-out, or an answer that was cut.
  if (error.status === 0) return { again: true, asked: 0 };
  const saysWhen = error.headers.has('Retry-After');
  return {
    again: asksAgain(error.status, { replayed: isReplay(error), saysWhen }),
    asked: retryAfter(error.headers.get('Retry-After'), error.headers.get('Date')),
  };
}

export function isReplay(answer: { headers: { get(name: string): string | null } }): boolean {
  return answer.headers.get('Idempotent-Replayed') === 'true';
}
